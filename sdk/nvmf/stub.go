package nvmf

import "github.com/mooring-io/mooring/sdk/nvme"

type Controller struct{}
type view struct{}
type namespace struct{}

func (ct *Controller) beginAdmin(c *Command)         { c.refuse(nvme.StatusInvalidOpcode.WithDNR()) }
func (ct *Controller) queueGone(q *Queue, left bool) {}
func (q *Queue) beginIO(c *Command)                  { c.refuse(nvme.StatusInvalidOpcode.WithDNR()) }
func (q *Queue) beginFabrics(c *Command)             { c.refuse(nvme.StatusInvalidOpcode.WithDNR()) }
func (q *Queue) leave()                              {}
func (q *Queue) drained()                            { q.state = queueDrained }
func (q *Queue) hasten(c *Command)                   {}
func (c *Command) requestDone()                      {}
func completeFailedFused(c *Command)                 { c.q.complete(c, nvme.StatusAbortFailedFused) }

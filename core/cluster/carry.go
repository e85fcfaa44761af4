package cluster

import (
	"context"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/mooring-io/mooring/core/cert"
)

// carryPatience bounds how long a node may take to do its part: many extents may go.
const carryPatience = time.Minute

func (d *Doorman) carry(w http.ResponseWriter, r *http.Request) {
	id, err := uuid.Parse(r.PathValue("id"))
	what := Work(r.PathValue("what"))
	if err != nil || (what != Deleted && what != Shrunk) {
		http.Error(w, "the request is not understood", http.StatusBadRequest)
		return
	}
	// The server's own bound is for what strangers send.
	_ = http.NewResponseController(w).SetWriteDeadline(d.Now().Add(carryPatience))
	ctx, cancel := context.WithTimeout(r.Context(), carryPatience)
	defer cancel()
	if err := d.Door.Carry(ctx, id, what); err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write([]byte("{}")) // if it is lost, the node asks again
}

// Carry has a node, whose agent is at address, do its part of something.
func Carry(ctx context.Context, k *cert.Keys, node uuid.UUID, address string, volume uuid.UUID, what Work) error {
	ctx, cancel := context.WithTimeout(ctx, carryPatience)
	defer cancel()
	return post(ctx, address, k.Dial(node, cert.Cluster1), "/v1/volumes/"+volume.String()+"/"+string(what), nil, &struct{}{})
}

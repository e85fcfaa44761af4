package sdk_test

import (
	"context"

	"github.com/mooring-io/mooring/sdk"
)

// nothing is a data plugin that serves nobody: the smallest there is.
type nothing struct{ env *sdk.Env }

func (*nothing) Describe() sdk.Description {
	return sdk.Description{Name: "nothing", Version: "1.0.0", ListenSchemes: []string{"nothing"}}
}

func (*nothing) Configure([]byte) error { return nil }

func (n *nothing) Start(_ context.Context, env *sdk.Env) error {
	n.env = env
	return nil
}

func (*nothing) SetListeners(_ context.Context, want []sdk.Listener) []sdk.ListenerState {
	var states []sdk.ListenerState
	for _, w := range want {
		states = append(states, sdk.ListenerState{AccessPointID: w.AccessPointID, URL: w.URL, Err: sdk.ErrUnsupported})
	}
	return states
}

func (*nothing) Stop(context.Context) error { return nil }

// A plugin's main function.
func ExampleServe() {
	sdk.Serve(&nothing{})
}

package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/mooring-io/mooring/core/admin"
	"github.com/mooring-io/mooring/core/supervisor"
	"github.com/mooring-io/mooring/sdk"
	"github.com/mooring-io/mooring/sdk/policy"
	"github.com/mooring-io/mooring/sdk/proto"
)

// policyPlugin is the plugin that serves the policy that a tenant chooses by name.
func policyPlugin(name string) string { return "policy-" + name }

// policy returns a tenant's path policy. One that no block of the configuration runs
// is started when it is asked for.
func (a *agent) policy(ctx context.Context, name string) (policy.Policy, error) {
	plugin := policyPlugin(name)
	p, err := a.plugins.Policy(plugin)
	if errors.Is(err, supervisor.ErrUnknown) {
		if err := a.knowsPolicy(ctx, name); err != nil {
			return nil, err
		}
		if err := a.plugins.Start(ctx, supervisor.Spec{Name: plugin}); err != nil {
			return nil, err
		}
		p, err = a.plugins.Policy(plugin)
	}
	return p, err
}

// knowsPolicy says whether a plugin of this node serves the policy.
func (a *agent) knowsPolicy(ctx context.Context, name string) error {
	d, err := a.plugins.Describe(ctx, policyPlugin(name))
	if err == nil && d.Kind != proto.Kind_KIND_POLICY {
		err = fmt.Errorf("plugin %s is no policy: %w", policyPlugin(name), sdk.ErrInvalid)
	}
	return err
}

// doctorPolicies finds tenants whose policy no plugin of this node serves, if there is
// something to choose.
func (a *agent) doctorPolicies(ctx context.Context) []admin.Finding {
	points, err := a.meta.AccessPoints(ctx)
	tenants, terr := a.meta.Tenants(ctx)
	if err = errors.Join(err, terr); err != nil {
		return []admin.Finding{{Level: "error", What: fmt.Sprintf("the metadata cannot be read: %v", err)}}
	}
	var out []admin.Finding
	for _, t := range tenants {
		if _, err := a.plugins.Status(policyPlugin(t.Policy)); err != nil && len(points) > 1 {
			out = append(out, admin.Finding{
				Level: "warn", What: fmt.Sprintf("tenant %s: there is no policy %s here: its paths stay where they are", t.Name, t.Policy),
				Fix: "mooring plugin add FILE of plugin " + policyPlugin(t.Policy) + ", on every node; or choose another policy",
			})
		}
	}
	return out
}

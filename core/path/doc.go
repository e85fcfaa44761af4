// Package path decides at which access points a host finds its namespaces.
//
// It owns the placement of every (host, namespace): asking a Policy, validating its
// answer, committing it through Meta, moving a path when a host writes elsewhere or
// its node drains, and knowing which listener addresses are really up. It does not own the record of
// a path or its epoch (package meta), what the policy prefers (a plugin), nor the
// telling of hosts (the front ends).
package path

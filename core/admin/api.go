package admin

import (
	"time"
)

// The objects of the admin API, as JSON carries them. Sizes are bytes, times are
// RFC 3339. Fields are added, never renamed.

// Status is what `mooring status` shows.
type Status struct {
	Version  string     `json:"version"`
	Node     string     `json:"node"`
	Cluster  string     `json:"cluster"` // UUID
	PID      int        `json:"pid"`
	Started  time.Time  `json:"started"`
	DataDir  string     `json:"data_dir"`
	Engine   string     `json:"engine"` // how the disk is driven: io_uring, threads or inline
	Uid      int        `json:"uid"`
	Meta     MetaStatus `json:"meta"`
	Stores   []Store    `json:"stores"`
	Plugins  []Plugin   `json:"plugins"`
	Volumes  []Volume   `json:"volumes"`
	Access   []Access   `json:"access_points"`
	Hosts    []Session  `json:"hosts"` // connected now
	Rates    Rates      `json:"rates"`
	Warnings []string   `json:"warnings"`
}

// MetaStatus says how Meta is doing.
type MetaStatus struct {
	Engine  string        `json:"engine"` // badger or etcd
	Session string        `json:"session"`
	Left    time.Duration `json:"left"` // until the Meta session would end
	// Silent is for how long the metadata has not answered: volumes and nodes are shown as they were known then.
	// 0: it answers.
	Silent time.Duration `json:"silent,omitempty"`
}

// Rates are measured since the former status call of the same client, or over half a second.
type Rates struct {
	ReadIOPS   float64 `json:"read_iops"`
	WriteIOPS  float64 `json:"write_iops"`
	ReadBytes  float64 `json:"read_bytes_per_second"`
	WriteBytes float64 `json:"write_bytes_per_second"`
}

// Volume is a volume.
type Volume struct {
	Name       string    `json:"name"`
	ID         string    `json:"id"`
	Tenant     string    `json:"tenant"`
	Size       int64     `json:"size"`
	Used       int64     `json:"used"`
	BlockSize  int       `json:"block_size"`
	Durability string    `json:"durability"`
	Replicas   int       `json:"replicas"`
	Media      string    `json:"media,omitempty"` // of its stores; "": any
	Group      string    `json:"group,omitempty"` // namespace group
	Created    time.Time `json:"created"`
	Managed    string    `json:"managed,omitempty"` // file:line of the block that sets it
	Users      []string  `json:"users"`             // namespaces that it is attached as
	State      string    `json:"state"`             // online, or what is wrong
	ReadOps    uint64    `json:"read_ops"`
	WriteOps   uint64    `json:"write_ops"`
	Health     *Health   `json:"health,omitempty"` // at the node that drives it
	Driver     string    `json:"driver,omitempty"` // node that drives it; of one volume only, not in lists
}

// Health says how far a volume is from having all its replicas.
type Health struct {
	Reduced int    `json:"extents_reduced"`      // that have fewer replicas than they are to have
	Away    int    `json:"extents_out_of_reach"` // of which a replica cannot be reached now
	Left    int64  `json:"bytes_left"`           // to be copied, as far as is known
	Copied  uint64 `json:"bytes_copied"`         // to stores that got a replica, since the volume was opened
	Joined  uint64 `json:"extents_restored"`     // that got another replica, since then
	Reason  string `json:"reason,omitempty"`     // why it does not go on
}

// VolumeCreate asks for a volume.
type VolumeCreate struct {
	Name       string `json:"name"`
	Tenant     string `json:"tenant,omitempty"`
	Size       int64  `json:"size"`
	BlockSize  int    `json:"block_size,omitempty"` // 512 or 4096; 0 is 4096
	Durability string `json:"durability,omitempty"` // sync or volatile; "" is sync
	Replicas   int    `json:"replicas,omitempty"`   // on different nodes; 0 is 2 where there are two storage nodes
	Group      string `json:"group,omitempty"`      // namespace group; "" is none
	Media      string `json:"media,omitempty"`      // of the stores: nvme, ssd, hdd; "" is any
}

// VolumeSet asks for changes of a volume. What is absent stays as it is.
type VolumeSet struct {
	Size       int64   `json:"size,omitempty"`
	Force      bool    `json:"force,omitempty"` // shrinking destroys what lies beyond
	Durability string  `json:"durability,omitempty"`
	Replicas   int     `json:"replicas,omitempty"`
	Group      *string `json:"group,omitempty"` // "": none
}

// Subsystem is an NVMe subsystem.
type Subsystem struct {
	NQN          string      `json:"nqn"`
	Tenant       string      `json:"tenant"`
	Serial       string      `json:"serial"`
	AllowAnyHost bool        `json:"allow_any_host"`
	Hosts        []string    `json:"hosts"`
	Namespaces   []Namespace `json:"namespaces"`
	Managed      string      `json:"managed,omitempty"`
}

// SubsystemCreate asks for a subsystem.
type SubsystemCreate struct {
	NQN          string `json:"nqn"`
	Tenant       string `json:"tenant,omitempty"`
	Serial       string `json:"serial,omitempty"`
	AllowAnyHost bool   `json:"allow_any_host"`
}

// Namespace is a volume in a subsystem.
type Namespace struct {
	Subsystem string   `json:"subsystem"`
	NSID      uint32   `json:"nsid"`
	Volume    string   `json:"volume"`
	Size      int64    `json:"size"`
	BlockSize int      `json:"block_size"`
	ANAGroup  uint32   `json:"ana_group"`
	NGUID     string   `json:"nguid"`
	UUID      string   `json:"uuid"`
	VisibleTo []string `json:"visible_to"`
	Managed   string   `json:"managed,omitempty"`
}

// NamespaceAttach asks for a volume to become a namespace.
type NamespaceAttach struct {
	Volume    string   `json:"volume"`
	NSID      uint32   `json:"nsid,omitempty"` // 0: the next one that is free
	VisibleTo []string `json:"visible_to,omitempty"`
}

// Target is an iSCSI target. What initiators prove to know is not in it.
type Target struct {
	IQN          string   `json:"iqn"`
	Tenant       string   `json:"tenant"`
	Mode         string   `json:"mode"`
	AllowAnyHost bool     `json:"allow_any_host"`
	Hosts        []string `json:"hosts"` // IQNs
	CHAP         *CHAP    `json:"chap,omitempty"`
	LUNs         []LUN    `json:"luns"`
	Managed      string   `json:"managed,omitempty"`
}

// CHAP says that initiators of a target must prove who they are.
type CHAP struct {
	User       string `json:"user"` // "": each its own IQN
	Mutual     bool   `json:"mutual"`
	MutualUser string `json:"mutual_user,omitempty"`
}

// TargetCreate asks for a target.
type TargetCreate struct {
	IQN          string `json:"iqn"`
	Tenant       string `json:"tenant,omitempty"`
	AllowAnyHost bool   `json:"allow_any_host"`
}

// TargetCHAP has initiators of a target prove who they are; without a secret, no more.
type TargetCHAP struct {
	User         string `json:"user,omitempty"`
	Secret       string `json:"secret,omitempty"`
	MutualUser   string `json:"mutual_user,omitempty"`
	MutualSecret string `json:"mutual_secret,omitempty"`
}

// LUN is a volume in a target.
type LUN struct {
	Target    string   `json:"target"`
	LUN       uint16   `json:"lun"`
	Volume    string   `json:"volume"`
	Size      int64    `json:"size"`
	BlockSize int      `json:"block_size"`
	UUID      string   `json:"uuid"` // initiators see it in VPD pages 80h and 83h
	VisibleTo []string `json:"visible_to"`
	Managed   string   `json:"managed,omitempty"`
}

// LUNAttach asks for a volume to become a logical unit.
type LUNAttach struct {
	Volume    string   `json:"volume"`
	LUN       *uint16  `json:"lun,omitempty"` // the lowest free one if it is not there
	VisibleTo []string `json:"visible_to,omitempty"`
}

// AnyHost in a HostRule is every host.
const AnyHost = "any"

// HostRule allows or denies a host.
type HostRule struct {
	Subsystem string `json:"subsystem"`      // or target
	Host      string `json:"host"`           // NQN or IQN, name of a host block, or AnyHost
	NSID      uint32 `json:"nsid,omitempty"` // 0: the subsystem; else the visibility of one namespace. Of a target, the LUN and one
}

// Session is a host that is connected now.
type Session struct {
	Host         string    `json:"host"`
	Subsystem    string    `json:"subsystem"`
	AccessPoint  string    `json:"access_point"`
	Peer         string    `json:"peer"`
	ControllerID uint32    `json:"controller_id"`
	Since        time.Time `json:"since"`
}

// Access is an access point.
type Access struct {
	ID     string `json:"id"`
	Plugin string `json:"plugin"`
	URL    string `json:"url"`
	State  string `json:"state"` // up, or why not
	// Redirector says that nodes take the address in turns, to send initiators on.
	Redirector bool `json:"redirector,omitempty"`
	// Other is the name of the node that has a redirector's address; empty if that is this one, or not known.
	Other string `json:"other,omitempty"`
}

// Plugin is a plugin of the catalog and what its process does.
type Plugin struct {
	Name     string    `json:"name"`
	Kind     string    `json:"kind"`
	Version  string    `json:"version"`
	Path     string    `json:"path"`
	SHA256   string    `json:"sha256"`
	State    string    `json:"state"`
	Reason   string    `json:"reason,omitempty"`
	PID      int       `json:"pid,omitempty"`
	UID      int       `json:"uid"`
	Restarts int       `json:"restarts"`
	Since    time.Time `json:"since,omitzero"` // of the state; not of an idle one
}

// PluginAdd registers a plugin's file in the catalog.
type PluginAdd struct {
	Path string `json:"path"`
}

// Store is an extent store of this node.
type Store struct {
	Name        string `json:"name"`
	ID          string `json:"id"`
	Path        string `json:"path"`
	Media       string `json:"media"`
	State       string `json:"state"`
	Incarnation uint64 `json:"incarnation"`
	Capacity    int64  `json:"capacity"`
	Allocated   int64  `json:"allocated"` // of the file system
	Used        int64  `json:"used"`
	Promised    int64  `json:"promised"` // the sizes of the volumes that may come to lie here
	Free        int64  `json:"free"`
	Extents     int    `json:"extents"`
	Direct      bool   `json:"direct"` // O_DIRECT

	Drain *StoreDrain `json:"drain,omitempty"` // while it is draining
}

// StoreDrain says how far a store is emptied.
type StoreDrain struct {
	Left   int    `json:"extents_left"`
	Moved  int    `json:"extents_moved"`
	Copied int64  `json:"bytes_copied"`
	Reason string `json:"reason,omitempty"` // why it does not go on
}

// StoreAdd asks for a new store.
type StoreAdd struct {
	Name     string `json:"name"`
	Path     string `json:"path"`
	Capacity int64  `json:"capacity,omitempty"`
	Media    string `json:"media,omitempty"`
}

// Node is a node of the cluster, or the only one.
type Node struct {
	Name     string     `json:"name"`
	ID       string     `json:"id"`
	Address  string     `json:"address,omitempty"`
	State    string     `json:"state"`          // up, down or witness
	Self     bool       `json:"self"`           // the one that was asked
	Since    time.Time  `json:"since,omitzero"` // of its Meta session
	Witness  bool       `json:"witness"`
	Vote     string     `json:"vote,omitempty"` // in the agents' etcd: votes, follows, or none
	Stores   int        `json:"stores"`
	Capacity int64      `json:"capacity"`
	Drain    *NodeDrain `json:"drain,omitempty"` // while it is draining
	Zone     string     `json:"zone,omitempty"`  // failure domain
	Rack     string     `json:"rack,omitempty"`  // failure domain within the zone
	// Silent is how long ago this was so, because etcd has not answered since. 0: it is so.
	Silent time.Duration `json:"silent,omitempty"`
}

// NodeDrain says how far a node is emptied.
type NodeDrain struct {
	Left   int    `json:"replicas_left"`
	Paths  int    `json:"paths_left"`       // of connected hosts, that are optimized at it
	Reason string `json:"reason,omitempty"` // why paths stay there
}

// NodeDrainAsk asks for a node to be emptied.
type NodeDrainAsk struct {
	Force bool `json:"force,omitempty"` // although volumes would have fewer replicas than they are to have, or hosts have no other node
}

// Cluster says how the cluster's etcd fares.
type Cluster struct {
	ID       string   `json:"id"`
	Embed    bool     `json:"embed"` // the agents run etcd
	Members  []Member `json:"members"`
	Warnings []string `json:"warnings"`
}

// Member is a member of etcd.
type Member struct {
	Name     string `json:"name"` // of the node, if the agents run etcd
	Client   string `json:"client"`
	Votes    bool   `json:"votes"`
	Leads    bool   `json:"leads"`
	Database int64  `json:"database_bytes"`
	Quota    int64  `json:"quota_bytes,omitempty"` // 0: not known
	Trouble  string `json:"trouble,omitempty"`     // such as NOSPACE
}

// TokenCreate asks for a join token.
type TokenCreate struct {
	Life time.Duration `json:"life"`
}

// Token is a join token: whoever has it can join, once.
type Token struct {
	Token string `json:"token"`
}

// Certificate is this node's own.
type Certificate struct {
	Node         string    `json:"node"`
	Serial       string    `json:"serial"`
	NotBefore    time.Time `json:"not_before"`
	NotAfter     time.Time `json:"not_after"`
	Due          bool      `json:"due"`           // for renewal
	HasAuthority bool      `json:"has_authority"` // the key of the cluster's CA is here
	Authorities  []string  `json:"authorities"`   // fingerprints of the CAs that are believed
}

// Event is one thing that happened.
type Event struct {
	Node     string    `json:"node"` // UUID
	Seq      uint64    `json:"seq"`  // of that node
	Time     time.Time `json:"time"`
	Severity string    `json:"severity"` // info, warning, error
	Kind     string    `json:"kind"`
	Object   string    `json:"object"`
	Text     string    `json:"text"`
}

// Finding is one result of `mooring doctor`.
type Finding struct {
	Level string `json:"level"` // ok, warn, error
	What  string `json:"what"`
	Fix   string `json:"fix,omitempty"`
}

// ReloadReport says what a reload did.
type ReloadReport struct {
	Applied    []string `json:"applied"`
	NotApplied []string `json:"not_applied"` // needs a restart; says why
	Unmanaged  []string `json:"unmanaged"`   // blocks that are gone; the objects stay
	Unchanged  int      `json:"unchanged"`
}

// Problem is an error as the API answers it.
type Problem struct {
	Error string   `json:"error"`
	Kind  string   `json:"kind"` // invalid, not_found, exists, in_use, managed, conflict, internal
	Users []string `json:"users,omitempty"`
}

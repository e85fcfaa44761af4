# A node that runs as it is: `make run`, or `bin/mooring agent -config config.hcl`.
# Every setting stands here with its default or its demo value; docs/configuration.md
# explains them all. Relative paths are taken from this file's folder.

# Where the metadata, the stores and the control socket are.
data_dir = "data"

# Plugins are found beside the binary (bin/plugins) unless this says otherwise.
# plugin_dir = "/usr/local/lib/mooring/plugins"

node {
  name = "node-1"
}

log {
  level = "info" # trace, debug, info, warn, error
  json  = false
}

admin {
  # The CLI speaks to the agent here; only this user (and root) may.
  # socket = "data/mooring.sock"
  metrics = "127.0.0.1:9464" # Prometheus, "off" for none
}

# One store is one disk's worth of extents.
store "main" {
  # path   = "data/stores/main"
  capacity = "8GiB" # the file grows up to this; without it, up to what the disk has
  media    = "ssd"  # nvme, ssd, hdd
}

# How hosts reach the volumes. Every plugin is a process of its own.
plugin "transport-tcp" {
  # NVMe hosts are not authenticated yet: listen on networks you trust only.
  listen  = ["nvme-tcp://127.0.0.1:4420"]
  threads = 1       # I/O threads; one core each when busy, none when idle
  pool    = "64MiB" # data in flight, per thread
}

plugin "frontend-iscsi" {
  listen = ["iscsi://127.0.0.1:3260"]
}

# What exists. These objects are created at start and updated by a reload; taking a
# block away deletes nothing: the object stays, and is shown as unmanaged.
volume "demo" {
  size       = "1GiB" # thin: takes space as it is written
  block_size = 4096   # 512 or 4096
  durability = "sync" # "volatile": a write may wait in the disk's cache for a flush
}

subsystem "nqn.2026-11.io.mooring:demo" {
  allow_any_host = true
  # hosts        = ["nqn.2014-08.org.nvmexpress:uuid:…"] # or only these

  namespace "1" {
    volume = "demo"
  }
}

# The same volume over iSCSI.
target "iqn.2026-11.io.mooring:demo" {
  allow_any_host = true
  # hosts = ["iqn.1993-08.org.debian:01:…"] # or only these

  # chap { # initiators prove who they are
  #   secret_file = "demo.secret"
  # }

  lun "0" {
    volume = "demo"
  }
}

# The kernel's own target behind the same functions, to try the cases themselves. No reservations before Linux 6.13.
HAVE_RESERVATIONS=
SUBSYSTEM=/sys/kernel/config/nvmet/subsystems/$NQN
LISTENER=/sys/kernel/config/nvmet/ports/1
NQN_LINK=$LISTENER/subsystems/$NQN

target_start() { # target_start DATA_DIR
	DATA=$1
	mkdir "$SUBSYSTEM" "$LISTENER"
	echo 1 >"$SUBSYSTEM/attr_allow_any_host"
	kernel_namespace 1 $((1 << 30)) "$DATA/ns1"
	echo tcp >$LISTENER/addr_trtype
	echo ipv4 >$LISTENER/addr_adrfam
	echo $ADDRESS >$LISTENER/addr_traddr
	echo $PORT >$LISTENER/addr_trsvcid
	ln -s "$SUBSYSTEM" "$NQN_LINK"
}
kernel_namespace() { # NSID BYTES FILE
	[ -e "$3" ] || truncate -s "$2" "$3"
	mkdir "$SUBSYSTEM/namespaces/$1"
	echo "$3" >"$SUBSYSTEM/namespaces/$1/device_path"
	printf '6f3c1a52-0d6e-4b39-9d4e-%012d' "$1" >"$SUBSYSTEM/namespaces/$1/device_uuid"
	# A file system without O_DIRECT wants the page cache.
	case $(stat -f -c %T "$DATA") in tmpfs) echo 1 >"$SUBSYSTEM/namespaces/$1/buffered_io" ;; esac
	echo 1 >"$SUBSYSTEM/namespaces/$1/enable"
}
target_stop() {
	rm "$NQN_LINK"
	rmdir "$LISTENER" "$SUBSYSTEM"/namespaces/* "$SUBSYSTEM"
}
volume_create() { truncate -s $(($2 << 20)) "$DATA/$1"; }      # NAME MIB
volume_exists() { [ -e "$DATA/$1" ]; }                         # NAME
volume_attach() { kernel_namespace "$2" 0 "$DATA/$1"; }        # NAME NSID
volume_detach() { rmdir "$SUBSYSTEM/namespaces/$1"; }          # NSID
volume_resize() {                                              # NAME MIB
	truncate -s $(($2 << 20)) "$DATA/$1"
	for ns in "$SUBSYSTEM"/namespaces/*; do echo 1 >"$ns/revalidate_size"; done
}
# Every connection breaks and comes back: as near as it gets to the death of a process.
kill_transport() { rm "$NQN_LINK" && ln -s "$SUBSYSTEM" "$NQN_LINK"; }
kill_core() { rm "$NQN_LINK" && sleep 1 && ln -s "$SUBSYSTEM" "$NQN_LINK"; }
target_evidence() { :; }

# Mooring as the target: an agent as a user starts it.
HAVE_RESERVATIONS=yes
MOORING=/opt/bin/mooring
TRANSPORT='/opt/bin/plugins/*tcp*'
ANY='/opt/bin/*' # each of our processes
export MOORING_SOCKET=/run/mooring.sock

target_start() { # target_start DATA_DIR [PORT]: it may listen at a second one, and for iSCSI at $ISCSI
	DATA=$1
	agent_out=/results/agent.out # kept by the test, also when the guest hangs
	$MOORING agent -dev -data-dir "$DATA" -listen nvme-tcp://$ADDRESS:$PORT ${2:+-listen nvme-tcp://$ADDRESS:$2} ${ISCSI:+-listen iscsi://$ISCSI} ${LISTEN:-} -socket $MOORING_SOCKET >$agent_out 2>>/results/agent.log &
	AGENT=$!
	wait_until 120 "the agent's line \"mooring: ready\"" agent_ready_or_gone
	agent_running || die "the agent ended before it was ready"
}
agent_running() { kill -0 "$AGENT" 2>/dev/null; }
agent_ready_or_gone() { grep -q '^mooring: ready' $agent_out || ! agent_running; }
target_stop() { # cleanly, and nothing may be left
	kill -TERM "$AGENT"
	wait "$AGENT" || die "the agent ended with status $? on SIGTERM"
	none_of "$ANY" || die "left behind: $(for p in $(pids_of "$ANY"); do tr '\0' ' ' <"/proc/$p/cmdline"; done)"
	left=$(find /run /tmp "$DATA" -type s)
	[ -z "$left" ] || die "sockets left behind: $left"
}
volume_create() { $MOORING volume create "$1" -size "$2MiB"; }                    # NAME MIB
volume_exists() { $MOORING volume show "$1" >/dev/null; }                         # NAME
volume_attach() { $MOORING namespace attach "$NQN" -volume "$1" -nsid "$2"; }     # NAME NSID
volume_detach() { $MOORING namespace detach "$NQN" "$1"; }                        # NSID
volume_resize() { $MOORING volume resize "$1" "$2MiB"; }                          # NAME MIB

kill_transport() { # and wait for its successor
	victim=$(pids_of "$TRANSPORT")
	[ -n "$victim" ] || die "no transport process"
	# shellcheck disable=SC2086
	kill -9 $victim
	wait_until 60 "a new transport process" transport_replaced "$victim"
}
transport_replaced() { one_of "$TRANSPORT" && [ "$(pids_of "$TRANSPORT")" != "$1" ]; }
kill_core() { # and start it again at once on the same data
	kill -9 "$AGENT"
	wait "$AGENT" 2>/dev/null || :
	target_start "$DATA"
	wait_until 60 "the dead core's transport to be gone" one_of "$TRANSPORT"
}

# target_evidence NAME: what the target says of itself, and what the host has counted, for the test to compare.
target_evidence() {
	$MOORING status -o json >"/results/status-$1.json" || [ $? = 6 ] # 6: something is degraded, as after a kill
	wget -q -O "/results/metrics-$1.txt" "$(sed -n 's/^ *metrics  *//p' $agent_out)" || :
	cat /sys/block/nvme*c*n1/stat >"/results/stat-$1.txt"
}

# A kernel that complains although the script ends well.
echo '<4>WARNING: CPU: 0 PID: 1 at the rig itself' >/dev/kmsg

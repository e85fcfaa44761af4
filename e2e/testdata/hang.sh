# A script that does not end.
echo up >/dev/ttyS1
sleep 3600

#!/bin/sh
# install.sh PREFIX [DESTDIR]: binary, plugins, example configuration, systemd unit, completions.
set -eu
prefix=$1
dest=${2:-}
install -D -m 0755 bin/mooring "$dest$prefix/bin/mooring"
for p in bin/plugins/*; do
    install -D -m 0755 "$p" "$dest$prefix/lib/mooring/plugins/$(basename "$p")"
done
if [ ! -e "$dest/etc/mooring/config.hcl" ]; then
    mkdir -p "$dest/etc/mooring"
    sed "s|@PREFIX@|$prefix|g" packaging/config.hcl >"$dest/etc/mooring/config.hcl"
fi
mkdir -p "$dest/etc/systemd/system" "$dest$prefix/share/bash-completion/completions" "$dest$prefix/share/zsh/site-functions" "$dest$prefix/share/fish/vendor_completions.d"
sed "s|@PREFIX@|$prefix|g" packaging/mooring.service >"$dest/etc/systemd/system/mooring.service"
bin/mooring completion bash >"$dest$prefix/share/bash-completion/completions/mooring"
bin/mooring completion zsh >"$dest$prefix/share/zsh/site-functions/_mooring"
bin/mooring completion fish >"$dest$prefix/share/fish/vendor_completions.d/mooring.fish"
echo "installed below $dest$prefix; start it with: systemctl daemon-reload && systemctl enable --now mooring"

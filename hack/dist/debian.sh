#!/bin/sh
# Run by hack/dist-test.sh in a bare Debian: the package is installed, used, removed and purged.
set -eux
files() { find / -xdev \( -path /dist -o -path /proc -o -path /sys -o -path /dev -o -path /tmp -o -path /var/lib/dpkg -o -path /var/log -o -path /var/cache \) -prune -o -print | sort; }
rm -f /etc/dpkg/dpkg.cfg.d/* # by which images leave out man pages
files >/tmp/before

dpkg -i /dist/slipway.deb
[ "$(command -v slipway)" = /usr/bin/slipway ]
slipway version | grep '^slipway version [0-9]*\.[0-9]*\.[0-9]*.* linux/amd64 '
slipway --version | grep -F "$(dpkg-query -W -f '${Version}' slipway | tr '~' '-')"
zcat /usr/share/man/man1/slipway-build.1.gz | grep -q 'Build an image from a Dockerfile'
bash -n /usr/share/bash-completion/completions/slipway
[ ! -e /etc/apparmor.d ] # which is made for nobody

# The configuration is read, says nothing, and is kept when it was changed.
mkdir /tmp/context
printf 'FROM scratch\nCOPY Dockerfile /\n' >/tmp/context/Dockerfile
slipway --root /tmp/store build --progress plain -o /tmp/out /tmp/context 2>&1 | tee /tmp/log
cmp /tmp/context/Dockerfile /tmp/out/Dockerfile
! grep -i warn /tmp/log
sed -i 's/^#debug = false/debug = true/' /etc/slipway/slipway.toml
dpkg -i /dist/slipway.deb
grep '^debug = true' /etc/slipway/slipway.toml

dpkg -r slipway
[ ! -e /usr/bin/slipway ]
grep '^debug = true' /etc/slipway/slipway.toml
dpkg -P slipway
files >/tmp/after
diff /tmp/before /tmp/after

# Where AppArmor knows of user namespaces the program has a profile, which goes with it, unless it is somebody's own.
mkdir -p /etc/apparmor.d/abi
touch /etc/apparmor.d/abi/4.0
dpkg -i /dist/slipway.deb
grep '^profile slipway "/usr/bin/slipway" flags=(unconfined)' /etc/apparmor.d/slipway
dpkg -P slipway
[ ! -e /etc/apparmor.d/slipway ]
echo own >/etc/apparmor.d/slipway
dpkg -i /dist/slipway.deb
dpkg -P slipway
[ "$(cat /etc/apparmor.d/slipway)" = own ]

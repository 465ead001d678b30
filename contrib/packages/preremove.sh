#!/bin/sh
set -e
# "remove" is dpkg's word, 0 is rpm's number of what is left.
case ${1:-} in
remove | 0) ;;
*) exit 0 ;;
esac
if [ -d /run/systemd/system ]; then
	systemctl --no-reload disable --now slipway.socket slipway.service >/dev/null 2>&1 || true
fi
if cmp -s /usr/share/slipway/apparmor /etc/apparmor.d/slipway; then
	if [ -e /sys/kernel/security/apparmor/profiles ] && command -v apparmor_parser >/dev/null; then
		apparmor_parser -R /etc/apparmor.d/slipway || true
	fi
	rm -f /etc/apparmor.d/slipway
fi

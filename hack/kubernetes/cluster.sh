#!/bin/bash
# A Kubernetes on this machine: a control plane and nodes, each in namespaces of its own, with a registry. For root, with cgroups of version 1 (or both).
#
#   cluster.sh up               starts what does not run yet; NODES=2 of them, 4 at most
#   cluster.sh client COMMAND   runs a command on the network of the control plane, with the kubeconfig of the administrator
#   cluster.sh cut|mend NODE    takes a node (1, 2...) off the network, and puts it back
#   cluster.sh kill UID         kills slipway in the pod of that UID
#   cluster.sh restart NAME     kills a component of the control plane (kube-apiserver...), which is started again
#   cluster.sh down             ends everything, and takes away all but the programs and logs
#
# Everything is in $SLIPWAY_KUBERNETES (build/kubernetes). The registry is at 10.99.0.1:5000 for nodes, pods and clients; every name of an image leads a node there.
set -u
K=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
D=${SLIPWAY_KUBERNETES:-$K/../../build/kubernetes}
mkdir -p "$D" && D=$(cd "$D" && pwd)
RUN=$D/run LOG=$D/log NODES=${NODES:-2}
export PATH=$D/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
CG=/sys/fs/cgroup CGROOT=slipway-kubernetes
API=10.99.0.1
nodeip() { echo 10.99.0.$((10 + $1)); }
podcidr() { echo 10.98.$1.0/24; }

# Processes that were started are remembered with their start time: a number may be another one's later.
starttime() { sed 's/.*) //' /proc/"$1"/stat 2>/dev/null | cut -d' ' -f20; }
note() { echo "$2 $(starttime "$2")" >"$RUN/$1.pid"; }
alive() { local p s; [ -f "$RUN/$1.pid" ] && read -r p s <"$RUN/$1.pid" && [ -n "$s" ] && [ "$(starttime "$p")" = "$s" ] && echo "$p"; }
first() { local p; p=$(alive "$1") && ps -o pid= --ppid "$p" | tr -d ' '; } # process 1 of the namespaces
start() { local n=$1; shift; alive "$n" >/dev/null && return; setsid nice -n 5 "$@" </dev/null >>"$LOG/$n.log" 2>&1 & note "$n" $!; }
# until WHAT COMMAND...: tries for three minutes
until_() { local what=$1 i; shift; for i in $(seq 900); do "$@" >/dev/null 2>&1 && return; sleep 0.2; done; echo "cluster.sh: $what did not come up, see $LOG" >&2; exit 1; }

hierarchies() { local d; for d in $CG/*/; do [ -e "$d/tasks" ] && basename "$d"; done; } # of version 1
mkcg() { # makes a cgroup in all of them
	local c p=
	for c in $(hierarchies); do mkdir -p "$CG/$c/$1"; done
	for c in ${1//\// }; do
		p=$p/$c
		cat $CG/cpuset/cpuset.cpus >"$CG/cpuset$p/cpuset.cpus"
		cat $CG/cpuset/cpuset.mems >"$CG/cpuset$p/cpuset.mems"
	done
}
join() { local c; for c in cpu cpuacct memory; do echo $$ >"$CG/$c/$1/cgroup.procs"; done; }

# keep NAME COMMAND...: run it again whenever it ends; its number in this namespace is in NAME.inner
keep() {
	local n=$1
	shift
	(while :; do
		"$@" >>"$LOG/$n.log" 2>&1 &
		echo $! >"$RUN/$n.inner"
		wait $!
		echo "-- $n ended, $(date +%T)" >>"$LOG/$n.log"
		sleep 1
	done) &
}

pki() {
	local P=$RUN/pki i u
	[ -f "$P/done" ] && return
	mkdir -p "$P" && cd "$P" || exit 1
	key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"; }
	sign() { # NAME SUBJECT [NAMES]
		key "$1"
		openssl req -new -key "$1.key" -subj "$2" -out "$1.csr"
		printf 'basicConstraints=CA:FALSE\nkeyUsage=digitalSignature\nextendedKeyUsage=clientAuth,serverAuth\n%s' "${3:+subjectAltName=$3}" >"$1.ext"
		openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile "$1.ext" -out "$1.crt" 2>/dev/null
	}
	conf() { # USER
		printf 'apiVersion: v1\nkind: Config\nclusters: [{name: lab, cluster: {server: "https://%s:6443", certificate-authority: %s/ca.crt}}]\nusers: [{name: %s, user: {client-certificate: %s/%s.crt, client-key: %s/%s.key}}]\ncontexts: [{name: lab, context: {cluster: lab, user: %s}}]\ncurrent-context: lab\n' \
			$API "$P" "$1" "$P" "$1" "$P" "$1" "$1" >"$P/$1.kubeconfig"
	}
	key ca
	openssl req -x509 -new -key ca.key -subj /CN=ca -days 30 -out ca.crt
	sign apiserver /CN=kube-apiserver "DNS:kubernetes.default.svc,IP:127.0.0.1,IP:$API,IP:10.97.0.1"
	sign admin /O=system:masters/CN=admin
	sign anna /CN=anna # who builds
	sign kubelet-client /O=system:masters/CN=kubelet-client
	for u in kube-controller-manager kube-scheduler kube-proxy; do sign $u /CN=system:$u; done
	for i in 1 2 3 4; do sign n$i /O=system:nodes/CN=system:node:n$i "DNS:n$i,IP:$(nodeip $i)"; done
	openssl genrsa -out sa.key 2048 2>/dev/null && openssl rsa -in sa.key -pubout -out sa.pub 2>/dev/null
	for u in admin anna kube-controller-manager kube-scheduler kube-proxy n1 n2 n3 n4; do conf $u; done
	touch done
}

# controlplane is process 1 of the control plane's namespaces.
controlplane() {
	local P=$RUN/pki i
	join $CGROOT/cp
	ip link set lo up
	ip link add br0 type bridge && ip addr add $API/24 dev br0 && ip link set br0 up
	for i in $(seq "$NODES"); do ip route add "$(podcidr "$i")" via "$(nodeip "$i")"; done
	mkdir -p "$RUN/etcd" && mount -t tmpfs -o size=1g,mode=700 tmpfs "$RUN/etcd"
	keep etcd etcd --name lab --data-dir "$RUN/etcd/data" --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
		--listen-peer-urls http://127.0.0.1:2380 --logger zap --log-level warn --auto-compaction-retention 1 --unsafe-no-fsync
	keep kube-apiserver kube-apiserver --etcd-servers=http://127.0.0.1:2379 --advertise-address=$API --bind-address=0.0.0.0 --secure-port=6443 \
		--authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged=true --client-ca-file="$P/ca.crt" \
		--tls-cert-file="$P/apiserver.crt" --tls-private-key-file="$P/apiserver.key" --kubelet-client-certificate="$P/kubelet-client.crt" \
		--kubelet-client-key="$P/kubelet-client.key" --kubelet-preferred-address-types=InternalIP --service-account-issuer=https://kubernetes.default.svc \
		--service-account-key-file="$P/sa.pub" --service-account-signing-key-file="$P/sa.key" --service-cluster-ip-range=10.97.0.0/24 --profiling=false
	keep kube-controller-manager kube-controller-manager --kubeconfig="$P/kube-controller-manager.kubeconfig" --leader-elect=false --use-service-account-credentials \
		--service-account-private-key-file="$P/sa.key" --root-ca-file="$P/ca.crt" --bind-address=127.0.0.1 --profiling=false --node-monitor-grace-period=20s
	keep kube-scheduler kube-scheduler --kubeconfig="$P/kube-scheduler.kubeconfig" --leader-elect=false --bind-address=127.0.0.1 --profiling=false
	keep registry-forward socat TCP-LISTEN:5000,bind=$API,reuseaddr,fork,backlog=128 UNIX-CONNECT:"$RUN/registry.sock"
	while :; do wait; sleep 1; done
}

# node N is process 1 of a node's namespaces.
node() {
	local N=$1 n=n$1 P=$RUN/pki R=$RUN/n$1 d i
	join $CGROOT/$n/sys
	hostname $n
	# A sysfs of this network namespace, the cgroups as they were.
	mkdir -p "$R/cg" && mount --rbind $CG "$R/cg" && mount -t sysfs sysfs /sys && mount --rbind "$R/cg" $CG && umount -l "$R/cg"
	for d in /var/lib/kubelet /var/lib/containerd /var/lib/cni /var/log/pods /var/log/containers /etc/cni /etc/containerd; do
		mkdir -p "$R/fs$d" $d && mount --bind "$R/fs$d" $d
	done
	mount -t tmpfs -o mode=755 tmpfs /run && mkdir -p /run/lock /run/containerd /run/netns
	mount --make-rshared /
	ip link set lo up
	for i in $(seq 200); do ip link show eth0 >/dev/null 2>&1 && break; sleep 0.1; done
	ip addr add "$(nodeip "$N")/24" dev eth0 && ip link set eth0 up && ip route add default via $API
	for i in $(seq "$NODES"); do [ "$i" = "$N" ] || ip route add "$(podcidr "$i")" via "$(nodeip "$i")"; done
	echo 1 >/proc/sys/net/ipv4/ip_forward
	mkdir -p /etc/cni/net.d /etc/containerd/certs.d/_default
	sed "s|@PODS@|$(podcidr "$N")|" "$K/testdata/node/cni.conflist" >/etc/cni/net.d/10-lab.conflist
	sed "s|@API@|$API|g; s|@RUNC@|$D/bin/runc|" "$K/testdata/node/containerd.toml" >/etc/containerd/config.toml
	sed "s|@API@|$API|g" "$K/testdata/node/hosts.toml" >/etc/containerd/certs.d/_default/hosts.toml
	: >"$R/resolv.conf"
	sed "s|@PKI@|$P|g; s|@NODE@|$n|g; s|@ADDRESS@|$(nodeip "$N")|; s|@CGROUP@|/$CGROOT/$n|; s|@RESOLV@|$R/resolv.conf|" "$K/testdata/node/kubelet.yaml" >"$R/kubelet.yaml"
	sed "s|@PKI@|$P|g; s|@NODE@|$n|g" "$K/testdata/node/proxy.yaml" >"$R/proxy.yaml"
	keep $n-containerd containerd --config /etc/containerd/config.toml
	until_ containerd test -S /run/containerd/containerd.sock
	keep $n-kubelet kubelet --config="$R/kubelet.yaml" --kubeconfig="$P/$n.kubeconfig" --hostname-override=$n --node-ip="$(nodeip "$N")" --root-dir=/var/lib/kubelet --v=1
	keep $n-kube-proxy kube-proxy --config="$R/proxy.yaml"
	while :; do wait; sleep 1; done
}

SYSCTLS="vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys kernel/keys/root_maxbytes"

up() {
	local k i c cp space="unshare --fork --kill-child --pid --net --mount --mount-proc"
	mkdir -p "$RUN" "$LOG"
	[ -d $CG/cpuset ] && [ -d $CG/memory ] || { echo "cluster.sh: cgroups of version 1 are needed at $CG" >&2; exit 1; }
	(pki) || exit 1
	[ -f "$RUN/sysctl.saved" ] || for k in $SYSCTLS; do echo "$k $(cat /proc/sys/$k)"; done >"$RUN/sysctl.saved" # the kubelet sets these for the whole machine
	mkcg $CGROOT/cp
	for i in $(seq "$NODES"); do mkcg $CGROOT/n$i/sys; done
	alive registry >/dev/null || rm -f "$RUN"/registry.sock*
	start registry registry -socket "$RUN/registry.sock" -dir "$RUN/registry" -bases "${BASES:-$K/../../build/bases}" -images "${IMAGES:-$K/../../build/image}" -mirror $API:5000
	until_ "the registry" test -S "$RUN/registry.sock"
	start cp $space env NODES="$NODES" bash "$K/cluster.sh" controlplane
	until_ "the control plane" first cp
	cp=$(first cp)
	until_ "its network" nsenter -t "$cp" -n ip link show br0
	for i in $(seq "$NODES"); do
		alive n$i >/dev/null && continue
		mkdir -p "$RUN/n$i"
		start n$i $space --uts --ipc env NODES="$NODES" bash "$K/cluster.sh" node $i
		until_ "node $i" first n$i
		c=$(first n$i)
		nsenter -t "$cp" -n ip link add n$i type veth peer name eth0 netns "$c" && nsenter -t "$cp" -n ip link set n$i master br0 up
	done
	until_ "the API server" "$K/cluster.sh" client kubectl get --raw /readyz
	for i in $(seq "$NODES"); do until_ "node $i" "$K/cluster.sh" client kubectl get node n$i; done
	"$K/cluster.sh" client kubectl wait --for=condition=Ready node --all --timeout=180s >&2 || exit 1
	until_ "the service account" "$K/cluster.sh" client kubectl -n default get serviceaccount default
	while read -r k i; do echo "$i" >"/proc/sys/$k"; done <"$RUN/sysctl.saved"
}

down() {
	local n p x k i left c kids=
	for n in n1 n2 n3 n4 cp registry; do
		p=$(alive $n) || continue
		for x in $(ps -o pid= --ppid "$p"); do kids="$kids $x:$(starttime "$x")"; done
		kill -9 "$p" # process 1 of its namespace dies with it, and all in the namespace with that
	done
	for i in $(seq 100); do
		left=
		for x in $kids; do [ "$(starttime "${x%:*}")" = "${x#*:}" ] && left=1; done
		[ -n "$left" ] || break
		sleep 0.1
	done
	[ -f "$RUN/sysctl.saved" ] && while read -r k i; do echo "$i" >"/proc/sys/$k"; done <"$RUN/sysctl.saved"
	for c in $(hierarchies) unified; do
		for i in 1 2 3 4 5; do
			[ -d "$CG/$c/$CGROOT" ] || break
			find "$CG/$c/$CGROOT" -depth -type d -exec rmdir {} + 2>/dev/null
			[ ! -d "$CG/$c/$CGROOT" ] || sleep 0.3
		done
	done
	rm -rf --one-file-system "$RUN"
	rmdir /var/lib/kubelet /var/lib/containerd /var/lib/cni /var/log/pods /var/log/containers /etc/cni /etc/containerd 2>/dev/null
	left=$(ls -d $CG/*/$CGROOT 2>/dev/null; grep -F " $D/" /proc/self/mountinfo)
	[ -z "$left" ] && [ ! -e "$RUN" ] || { echo "cluster.sh: left behind: $left $(ls -d "$RUN" 2>/dev/null)" >&2; exit 1; }
}

case ${1:-} in
up) up ;;
down) down ;;
client)
	shift
	cp=$(first cp) || { echo "cluster.sh: no cluster runs" >&2; exit 1; }
	KUBECONFIG=${KUBECONFIG:-$RUN/pki/admin.kubeconfig} exec nsenter -t "$cp" -n -- "$@"
	;;
cut) nsenter -t "$(first cp)" -n ip link set "n$2" down ;;
mend) nsenter -t "$(first cp)" -n ip link set "n$2" up ;;
restart) nsenter -t "$(first cp)" -p -m kill -9 "$(cat "$RUN/$2.inner")" ;;
kill)
	for p in $(cat $CG/memory/$CGROOT/n*/kubepods/*/pod"$2"/*/cgroup.procs | sort -n); do # process 1 of a container comes first
		if grep -q '^NSpid:.*	1$' "/proc/$p/status" && [ "$(cat "/proc/$p/comm")" = slipway ]; then exec kill -9 "$p"; fi
	done
	exit 1
	;;
controlplane) controlplane ;;
node) node "$2" ;;
*) sed -n '2,/^set/s/^# \{0,1\}//p' "$K/cluster.sh" >&2; exit 2 ;;
esac

# Shared by the scripts of this folder; sourced, never run.
# shellcheck shell=bash

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
TOOLS=$HERE/tools
SERVERS=$HERE/../../servers
CACHE=${CHAT_KIND_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/chat-kind}
mkdir -p "$CACHE/bin"
CACHE=$(cd "$CACHE" && pwd)
export CHAT_KIND_CACHE=$CACHE
BIN=$CACHE/bin
KUBERNETES_PROGRAMS=(kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubeadm kubectl)

# shellcheck source=versions.env
source "$HERE/versions.env"
export GOWORK=off
export PATH=$BIN:$PATH:/usr/local/sbin:/usr/sbin:/sbin
export CHAT_KIND_STARTED=${CHAT_KIND_STARTED:-$(date +%s)}

# step TEXT: a progress line with the seconds since the outermost script began.
# Progress goes to stderr, so that a script's stdout holds only its result.
step() { printf '[%4ds] %s\n' $(($(date +%s) - CHAT_KIND_STARTED)) "$*" >&2; }

die() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

# quietly COMMAND...: shows what a command says only if it fails.
quietly() {
	local said
	said=$("$@" 2>&1) || {
		printf '%s\n' "$said" >&2
		return 1
	}
}

usage() {
	printf 'usage: %s\n' "$*" >&2
	exit 2
}

# one_at_a_time: waits until no other script is building in this cache.
one_at_a_time() {
	exec 9>"$CACHE/lock"
	flock --nonblock 9 || { step "Waiting for another build in $CACHE" && flock 9; }
}

# work_directory: makes an empty folder in the cache that goes when the script ends.
work_directory() {
	WORK=$(mktemp -d "$CACHE/work.XXXXXX")
	chmod 755 "$WORK"
	trap 'rm -rf --one-file-system "$WORK"' EXIT
}

# need COMMAND=PACKAGE...: installs the Debian packages of missing commands.
need() {
	local pair missing=()
	for pair; do
		command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
	done
	((${#missing[@]} == 0)) || apt_install "${missing[@]}"
}

apt_install() {
	if [[ $EUID != 0 ]] || ! command -v apt-get >/dev/null; then
		die "missing $*: install these, or run this as root on Debian and they get installed"
	fi
	step "Installing $*"
	apt-get update >"$CACHE/apt.log" 2>&1 || step "apt-get update did not reach every source; going on"
	DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" >>"$CACHE/apt.log" 2>&1 </dev/null ||
		die "apt-get could not install $*: see $CACHE/apt.log"
}

# single_program_modules: one line for each folder of tools/ that builds one
# program of the folder's name: folder, Go package, version. A folder with a
# main.go of its own builds that instead, with the package's module.
single_program_modules() {
	cat <<-END
		etcd go.etcd.io/etcd/server/v3 $ETCD_VERSION
		coredns github.com/coredns/coredns $COREDNS_VERSION
		local-path-provisioner github.com/rancher/local-path-provisioner $LOCAL_PATH_PROVISIONER_VERSION
		kind sigs.k8s.io/kind $KIND_VERSION
		helm helm.sh/helm/v3/cmd/helm $HELM_VERSION
	END
}

# build_program NAME: one of the programs above.
build_program() {
	local package version
	read -r package version < <(single_program_modules | awk -v name="$1" '$1 == name {print $2, $3}')
	asks_for "$1" "${package%/cmd/*}" "$version"
	[[ ! -e $TOOLS/$1/main.go ]] || package=.
	go_build "$1" "$BIN/$1" "$package"
}

# build_nats: the server that other tests use, too.
build_nats() { go_build nats-server "$BIN/nats-server" github.com/nats-io/nats-server/v2; }

# build_kubernetes: Kubernetes itself, kubectl, and this folder's pause and podnet.
build_kubernetes() {
	local minor=${KUBERNETES_VERSION#v1.}
	asks_for kubernetes k8s.io/kubernetes "$KUBERNETES_VERSION"
	go_build kubernetes "$BIN/" ./pause ./podnet "${KUBERNETES_PROGRAMS[@]/#/k8s.io/kubernetes/cmd/}" -- \
		-X "k8s.io/component-base/version.gitVersion=$KUBERNETES_VERSION" \
		-X "k8s.io/component-base/version.gitMajor=1" \
		-X "k8s.io/component-base/version.gitMinor=${minor%%.*}" \
		-X "k8s.io/client-go/pkg/version.gitVersion=$KUBERNETES_VERSION"
}

# asks_for FOLDER MODULE VERSION: checks that go.mod and versions.env agree.
asks_for() {
	grep -qE "^(require |	)$2 $3( |$)" "$TOOLS/$1/go.mod" ||
		die "tools/$1/go.mod does not ask for $2 $3: run tools/update"
}

# module_folder NAME: where the go.mod is from which NAME is built.
module_folder() {
	case $1 in
	nats-server) echo "$SERVERS/nats" ;;
	*) echo "$TOOLS/$1" ;;
	esac
}

# go_build NAME OUTPUT PACKAGE... [-- LINKER_FLAG...]: builds packages of the
# module of that name, unless their inputs are those of the last build.
go_build() {
	local name=$1 output=$2 packages=() folder inputs
	folder=$(module_folder "$name")
	shift 2
	while (($#)) && [[ $1 != -- ]]; do
		packages+=("$1")
		shift
	done
	(($# == 0)) || shift
	command -v go >/dev/null || die "Go is needed, version 1.25 or newer"
	inputs=$({
		go version
		echo "${packages[@]}" "$@"
		find "$folder" -type f -print0 | LC_ALL=C sort -z | xargs -0 cat
	} | sha256)
	[[ $(built_from "$name") != "$inputs" ]] || return 0
	step "Building $name from Go modules (minutes, if Go's build cache is empty)"
	CGO_ENABLED=0 go build -C "$folder" -trimpath -buildvcs=false \
		-ldflags "-s -w $*" -o "$output" "${packages[@]}" >&2
	echo "$inputs" >"$BIN/.$name.inputs"
}

# built_from NAME...: the hash of the inputs that the programs were built from.
built_from() {
	local name
	for name; do
		cat "$BIN/.$name.inputs" 2>/dev/null || echo none
	done
}

sha256() { sha256sum | cut -d' ' -f1; }

# Images carry the hash of their inputs in a label.
INPUTS_LABEL=chat-kind.inputs

image_is_current() { # IMAGE INPUTS
	[[ $(docker image inspect -f "{{index .Config.Labels \"$INPUTS_LABEL\"}}" "$1" 2>/dev/null) == "$2" ]]
}

# retire IMAGE: drops the older image of that name, unless a container uses it.
retire() { docker image rm "$1" >/dev/null 2>&1 || true; }

# import_image IMAGE ROOT [DOCKER_IMPORT_FLAG...]: makes an image of a folder.
import_image() {
	local image=$1 root=$2
	shift 2
	retire "$image"
	tar -C "$root" --owner=0 --group=0 --numeric-owner -c . | docker import "$@" - "$image" >/dev/null
}

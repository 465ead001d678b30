#!/bin/sh
# What `advise` says of builds with real package managers, behind `make examples`: each finding's patch is applied, the image must be the same, and a change of another
# file must not download again. It needs a network, and the certificates of this machine, which a proxy may have added to. Arguments choose some of: go npm pip.
set -eu
cd "$(dirname "$0")/.."
PATH=$PWD/bin:$PATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
certificates=/etc/ssl/certs/ca-certificates.crt

# project NAME: begins one, with files that no download needs.
project() {
	dir=$work/$1
	mkdir -p "$dir/docs" "$dir/public"
	echo "read me" > "$dir/docs/readme.md"
	head -c 150000 /dev/urandom > "$dir/public/logo"
	echo Dockerfile > "$dir/.dockerignore"
}

# advised NAME WHAT: the copy before the download is found, and gone with the patch.
advised() {
	name=advise-$1 dir=$work/$1
	slipway build --network host --trace-files -t "$name:before" "$dir"
	slipway advise "$dir" | tee "$work/findings"
	grep -q "copy-before-download" "$work/findings"
	grep -q "which needs $2" "$work/findings"
	slipway advise --format patch "$dir" | (cd "$dir" && patch -p1)
	slipway build --network host --no-cache --trace-files -t "$name:after" "$dir"
	slipway image diff "$name:before" "$name:after" | tee "$work/diff"
	slipway advise "$dir" > "$work/findings"
	! grep "copy-before-download" "$work/findings" || exit 1
	echo changed >> "$dir/docs/readme.md"
	slipway build --network host -t "$name:after" --progress plain "$dir" 2>&1 | tee "$work/log"
	grep -A1 "$3" "$work/log" | grep -q CACHED
}

# same PATTERN: nothing but logs and caches with times, which the pattern names, is another one.
same() {
	! grep -E '^[ADC] +.*/' "$work/diff" | grep -vE "$1" || { echo "advise: the images differ" >&2; exit 1; }
}

go_() {
	project go
	cat > "$work/go/go.mod" <<-'END'
		module example.com/app

		go 1.26

		require rsc.io/quote v1.5.2
	END
	printf 'package main\n\nimport "rsc.io/quote"\n\nfunc main() { println(quote.Hello()) }\n' > "$work/go/main.go"
	(cd "$work/go" && GOFLAGS=-mod=mod go mod tidy)
	cat > "$work/go/Dockerfile" <<-'END'
		FROM golang:1.26 AS build
		WORKDIR /src
		COPY . .
		ENV CGO_ENABLED=0
		ARG GOPROXY
		RUN go mod download
		RUN go build -trimpath -buildvcs=false -o /app .
		FROM scratch
		COPY --from=build /app /app
	END
	advised go '2 of them (go.mod, go.sum)' 'RUN go mod download'
	same '^$'
}

# tools: an image of Debian with the tools of the others, or the one that ADVISE_TOOLS names.
tools() {
	[ -z "${ADVISE_TOOLS:-}" ] || { slipway tag "$ADVISE_TOOLS" advise-tools && return; }
	mkdir -p "$work/tools"
	cp "$certificates" "$work/tools/certificates"
	cat > "$work/tools/Dockerfile" <<-'END'
		FROM debian:stable-slim
		RUN apt-get update && apt-get install -y --no-install-recommends nodejs npm python3-pip && rm -rf /var/lib/apt/lists/*
		COPY certificates /etc/ssl/certs/ca-certificates.crt
		ENV NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt npm_config_cafile=/etc/ssl/certs/ca-certificates.crt npm_config_update_notifier=false
	END
	slipway build --network host -t advise-tools "$work/tools"
}

# A workspace, whose directories npm lists, and a WORKDIR and more between the COPY and the RUN.
npm_() {
	tools
	project npm
	mkdir -p "$work/npm/packages/a" "$work/npm/packages/b/src"
	echo '{"name":"root","version":"1.0.0","private":true,"workspaces":["packages/*"],"dependencies":{"is-odd":"3.0.1"}}' > "$work/npm/package.json"
	echo '{"name":"a","version":"1.0.0","dependencies":{"b":"1.0.0"}}' > "$work/npm/packages/a/package.json"
	echo '{"name":"b","version":"1.0.0","dependencies":{"is-number":"6.0.0"}}' > "$work/npm/packages/b/package.json"
	echo 'module.exports = require("is-number")' > "$work/npm/packages/b/src/b.js"
	cat > "$work/npm/Lock.Dockerfile" <<-'END'
		FROM advise-tools AS lock
		WORKDIR /app
		COPY . .
		RUN npm install --package-lock-only
		FROM scratch
		COPY --from=lock /app/package-lock.json /
	END
	slipway build --network host -o "$work/npm" -f "$work/npm/Lock.Dockerfile" "$work/npm"
	rm "$work/npm/Lock.Dockerfile"
	cat > "$work/npm/Dockerfile" <<-'END'
		FROM advise-tools
		WORKDIR /app
		COPY . .
		ENV NODE_ENV=production
		LABEL kind=test
		WORKDIR /app/public
		RUN cd .. && npm ci
		RUN node -e 'require("../packages/b/src/b")' && ls /app > /out
	END
	advised npm '4 of them (package-lock.json, package.json, packages/a/package.json, packages/b/package.json)' 'RUN cd .. && npm ci'
	same ' /?root/\.npm(/|$)|/\.package-lock\.json$'
}

pip_() {
	tools
	project pip
	mkdir "$work/pip/wheels" "$work/pip/app"
	echo 'import tiny' > "$work/pip/app/main.py"
	echo tiny > "$work/pip/requirements.txt"
	cat > "$work/pip/wheel.py" <<-'END'
		import zipfile
		files = {'tiny.py': 'X = 1\n', 'tiny-1.0.dist-info/METADATA': 'Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n',
		         'tiny-1.0.dist-info/WHEEL': 'Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n', 'tiny-1.0.dist-info/RECORD': ''}
		with zipfile.ZipFile('/tiny-1.0-py3-none-any.whl', 'w') as z:
		    for name, text in files.items(): z.writestr(name, text)
	END
	cat > "$work/pip/Wheel.Dockerfile" <<-'END'
		FROM advise-tools AS wheel
		COPY wheel.py /
		RUN python3 /wheel.py
		FROM scratch
		COPY --from=wheel /tiny-1.0-py3-none-any.whl /
	END
	slipway build -o "$work/pip/wheels" -f "$work/pip/Wheel.Dockerfile" "$work/pip"
	rm "$work/pip/wheel.py" "$work/pip/Wheel.Dockerfile"
	cat > "$work/pip/Dockerfile" <<-'END'
		FROM advise-tools
		WORKDIR /srv
		COPY . .
		RUN pip install --no-cache-dir --break-system-packages --no-index --find-links wheels -r requirements.txt
		RUN python3 app/main.py && cp app/main.py /out
	END
	advised pip '2 of them (requirements.txt, wheels/tiny-1.0-py3-none-any.whl)' 'RUN pip install'
	same '__pycache__|\.pyc$'
}

for kind in ${*:-go npm pip}; do
	"${kind}_"
done

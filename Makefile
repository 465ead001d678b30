# slipway's own build. `make help` lists the targets.
GO      ?= go
VERSION ?= $(shell hack/version.sh)
COMMIT  ?= $(shell hack/version.sh commit)
DATE    ?= $(shell hack/version.sh date)
TAGS    := seccomp netgo osusergo grpcnotrace
STAMP   := github.com/slipway-build/slipway/internal/cli
LDFLAGS := -s -w -extldflags -static -X $(STAMP).Version=$(VERSION) -X $(STAMP).Commit=$(COMMIT) -X $(STAMP).Date=$(DATE)
BASES   := build/tools/bases
# Pinned: a new release must not turn an old commit red.
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0
GOVULNDB    ?= https://vuln.go.dev

comma := ,

# libseccomp is a C library, so cgo is on; -buildvcs=false because the version is set above.
export CGO_ENABLED := 1
# hack/patched.sh writes this go.mod, with the modules that hack/patches changes.
PATCHED := -modfile=build/patched/go.mod
GOBUILD := GO="$(GO)" hack/go.sh build $(PATCHED) -trimpath -buildvcs=false -tags "$(TAGS)" -ldflags "$(LDFLAGS)"

.DEFAULT_GOAL := help
.PHONY: dist dist-test sign session image image-debug image-daemon image-program image-test help build deps bases demo examples test page-test vm arm64 kubernetes-programs kubernetes kubernetes-scale check fmt vet lint vuln layering race reproducible docs bench scale torture conformance conformance-bake conformance-user environments warm suites suites-client suites-dockerfile suites-engine suites-engine-client suites-engine-dockerfile suites-moby clients clean

help: ## list the targets
	@sed -n 's/^\([a-z][a-z0-9-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

deps: ## install what building, testing and the examples need (Debian or Ubuntu, root)
	@hack/deps.sh all

build: ## build the static binary, bin/slipway
	@hack/deps.sh build
	@hack/patched.sh
	$(GOBUILD) -o bin/slipway ./cmd/slipway

# The tool is built, not run by "go run", so that a signal reaches it.
$(BASES): FORCE
	@$(GO) build -buildvcs=false -o $@ ./hack/bases
FORCE:

bases: ## make all base images that stand in for the public ones, in build/bases
	@hack/deps.sh bases
	@$(MAKE) --no-print-directory $(BASES)
	@$(BASES) make

demo: build ## build the first two examples on stand-in base images, run them, show their sizes
	@hack/deps.sh demo
	@$(MAKE) --no-print-directory $(BASES)
	@$(BASES) make busybox golang
	@$(BASES) exec -- hack/demo.sh

# PLATFORMS=linux/amd64,linux/arm64 makes an index of both.
image: build ## build an image of slipway by itself, with the program alone: in the store as slipway:latest, and in build/image/slipway
	@VERSION="$(VERSION)" COMMIT="$(COMMIT)" DATE="$(DATE)" hack/image.sh slipway

image-debug: build ## build the one with a shell, slipway:debug
	@VERSION="$(VERSION)" COMMIT="$(COMMIT)" DATE="$(DATE)" hack/image.sh debug

image-daemon: build ## build the one for docker buildx' drivers and GitHub's container jobs, on Debian: slipway:daemon
	@VERSION="$(VERSION)" COMMIT="$(COMMIT)" DATE="$(DATE)" hack/image.sh daemon

# The program that is there, as hack/image.sh takes it in place of one that is compiled in the image.
PROGRAMS := build/image/program
image-program: build
	@install -D bin/slipway $(PROGRAMS)/$$($(GO) env GOARCH)/slipway

# On stand-in base images, with the program that is there: nothing is downloaded but Debian's packages.
image-test: image-program ## build the images on stand-in base images and try them in containers by runc
	@hack/deps.sh bases
	@hack/deps.sh test
	@$(MAKE) --no-print-directory $(BASES)
	@$(BASES) make busybox golang debian
	@for target in slipway debug daemon; do PROGRAM=$(PROGRAMS) $(BASES) exec -- hack/image.sh $$target || exit; done
	SLIPWAY_IMAGES=$(CURDIR)/build/image SLIPWAY_PROGRAM=$(CURDIR)/bin/slipway GO="$(GO)" hack/go.sh test $(PATCHED) -buildvcs=false -count=1 -v -tags "$(TAGS)" -run '^(TestImage|TestExamples)$$' ./hack/environments

# It does not use what `make build` made: the bytes of a release are those of any machine with the same tools.
dist: ## make tarballs, .deb and .rpm for amd64 and arm64, with SBOMs, provenance and checksums, in build/dist
	@hack/deps.sh dist
	@VERSION="$(VERSION)" COMMIT="$(COMMIT)" DATE="$(DATE)" GO="$(GO)" hack/dist.sh

# Apart from dist, whose files are those of anybody.
sign: ## sign the checksums in build/dist with the key of SSH in SIGNING_KEY=FILE
	@SIGNING_KEY="$(SIGNING_KEY)" hack/sign.sh sign

dist-test: build dist ## make them once more and compare, install and remove the packages, make images of both architectures, run those for arm64 in an emulator
	@hack/deps.sh bases
	@hack/deps.sh dist-test
	@$(MAKE) --no-print-directory $(BASES)
	@$(BASES) make busybox golang debian
	@$(BASES) exec -- hack/dist-test.sh packages
	@$(BASES) exec -- hack/dist-test.sh images
	@VERSION="$(VERSION)" COMMIT="$(COMMIT)" DATE="$(DATE)" GO="$(GO)" hack/dist-test.sh again

session: build ## record the session that README.md shows, docs/session.svg
	@hack/deps.sh demo
	$(GO) build -buildvcs=false -o build/tools/record ./hack/record
	@$(MAKE) --no-print-directory $(BASES)
	@$(BASES) make busybox
	@$(BASES) exec -- hack/session.sh bin/slipway

examples: build bases ## build and run every example, the operator with its download included
	@$(BASES) exec -- hack/examples.sh

# Both forms test the program that `make build` makes. `make test SHORT=` is the whole, which CI runs; RUN=regexp chooses tests. What takes longest begins first, or
# it would be alone at the end; one more at a time than there are processors, as tests wait for each other's processes. What vet says
# is in the whole and in `make check`.
SHORT ?= -short -vet=off
LONGEST := ./internal/cli ./internal/sandbox ./hack/environments
# The short form leaves out what tests of the tests' own tools there are, and the short forms of torture and conformance.
TESTED  := $(if $(SHORT),./cmd/... ./internal/... ./hack/commands ./hack/docs ./hack/layering,./...)
MORE    := $(shell echo $$(( $$(nproc) + 1 )))
test: build ## install what the tests need and run those that do not take long (all: SHORT=)
	@hack/deps.sh test
	@hack/buildkit.sh build/tools buildctl buildx
	SLIPWAY_PROGRAM=$(CURDIR)/bin/slipway GO="$(GO)" hack/go.sh test $(PATCHED) $(SHORT) -trimpath -buildvcs=false -count=1 -tags "$(TAGS)" -ldflags "-s -w" -timeout 45m -parallel $(MORE) $(if $(RUN),-run '$(RUN)') $(LONGEST) $(TESTED)
	cd examples/operator && CGO_ENABLED=0 $(GO) test -buildvcs=false ./...

page-test: ## look at the page of history open in Chromium, which is installed (SCREENSHOTS=DIRECTORY leaves pictures)
	@hack/deps.sh page
	@hack/patched.sh
	CHROMIUM=chromium GO="$(GO)" hack/go.sh test $(PATCHED) -trimpath -buildvcs=false -count=1 -v -tags "$(TAGS)" -run '^TestChromium$$' ./internal/report

vm: ## run the sandbox's tests in a virtual machine with cgroups of version 2 alone and AppArmor
	@hack/deps.sh vm
	GO="$(GO)" hack/vm.sh amd64

arm64: ## cross-compile the sandbox for arm64 and run its tests in a virtual machine
	@hack/deps.sh arm64
	@hack/patched.sh
	GO="$(GO)" hack/vm.sh arm64

check: fmt vet lint vuln layering race reproducible ## format, vet, staticcheck, govulncheck, layering, race tests, reproducible build

fmt:
	@files=$$(gofmt -l $$(git ls-files '*.go')); \
	if [ -n "$$files" ]; then echo "not formatted by gofmt:"; echo "$$files"; exit 1; fi

vet:
	@hack/deps.sh build
	@hack/patched.sh
	$(GO) vet $(PATCHED) -tags "$(TAGS)" ./...
	cd examples/operator && $(GO) vet ./...

lint:
	$(GO) run $(STATICCHECK) -tags "$(TAGS)" ./...

vuln: ## look for known vulnerabilities in the code that slipway calls
	@$(GO) run -buildvcs=false ./hack/vuln hack/vuln/exceptions.txt $(GO) run $(GOVULNCHECK) -format json -db "$(GOVULNDB)" -tags "$(TAGS)" ./cmd/... ./internal/...

layering: ## check that imports point downward
	$(GO) test -count=1 -tags "$(TAGS)" ./hack/layering

race:
	@hack/deps.sh test
	@hack/patched.sh
	GORACE="suppressions=$(CURDIR)/hack/race.supp" $(GO) test $(PATCHED) -buildvcs=false -race -tags "$(TAGS)" -timeout 30m ./...

reproducible: ## build the binary twice, in two places, and compare
	@hack/deps.sh build
	@hack/reproducible.sh env $(GOBUILD)

docs: ## write docs/commands.md from the commands' own help
	@hack/patched.sh
	$(GO) run $(PATCHED) -buildvcs=false -tags "$(TAGS)" ./hack/commands -w docs/commands.md

bench: build ## print how long things take beside the plain commands that bound them
	@hack/deps.sh bench
	$(GO) run -buildvcs=false -tags "$(TAGS)" ./hack/bench -slipway bin/slipway

scale: build ## see that commands which handle 1,000,000 files need less than 250 MB of memory, and 80 MB for 20,000
	@hack/deps.sh build
	cp bin/slipway build/scale # how the kernel has cached a file decides how much of it is mapped: a linked one counts 17 MB more than a copy
	SLIPWAY_SCALE=$(or $(FILES),1000000) SLIPWAY_SCALE_PROGRAM=$(CURDIR)/build/scale $(GO) test -buildvcs=false -count=1 -v -tags "$(TAGS)" -timeout 60m -run '^TestMemory$$' ./cmd/slipway

torture: build ## kill, starve and damage slipway's store for hours, and write the table of docs/reliability.md
	@hack/deps.sh test
	$(GO) build -buildvcs=false -tags "$(TAGS)" -o build/tools/torture ./hack/torture
	build/tools/torture -slipway bin/slipway -journal build/torture.journal -w docs/reliability.md

conformance: build ## compile BuildKit's daemon and buildx, and record anew what they make of the cases in hack/conformance
	@hack/deps.sh test
	@hack/buildkit.sh build/tools
	$(GO) build -buildvcs=false -tags "$(TAGS)" -o build/tools/record ./hack/conformance/record
	build/tools/record -buildkitd build/tools/buildkitd -buildctl build/tools/buildctl -out hack/conformance/testdata/buildkit hack/conformance/cases
	build/tools/record -buildkitd build/tools/buildkitd -buildctl build/tools/buildctl -slipway bin/slipway internal/cache/testdata/buildkit-index.json
	@$(MAKE) --no-print-directory conformance-bake

# The part of it about bake files.
conformance-bake:
	@hack/buildkit.sh build/tools
	$(GO) build -buildvcs=false -tags "$(TAGS)" -o build/tools/record-bake ./hack/conformance/bake/record
	build/tools/record-bake -buildkitd build/tools/buildkitd -buildctl build/tools/buildctl -buildx build/tools/buildx -out hack/conformance/bake/testdata hack/conformance/bake/cases

# With ENVIRONMENT=user-one they are those of a user without subordinate IDs.
conformance-user: build ## build the cases of hack/conformance as a user of this machine, and compare with what BuildKit made of them as root
	@hack/deps.sh test
	SLIPWAY_CONFORMANCE_USER=$(or $(ENVIRONMENT),user) SLIPWAY_PROGRAM=$(CURDIR)/bin/slipway $(GO) test $(PATCHED) -buildvcs=false -count=1 -tags "$(TAGS)" -timeout 30m -run '^TestUserEqualsBuildKit$$' ./hack/conformance

# DOCKERFILES=large-apt,... and ENVIRONMENTS=docker,... choose some.
environments: build bases ## build Dockerfiles, packages of Debian and Go programs among them, in containers and as users with few rights
	@hack/deps.sh test
	SLIPWAY_DOCKERFILES=$(or $(DOCKERFILES),all) SLIPWAY_ENVIRONMENTS=$(ENVIRONMENTS) SLIPWAY_PROGRAM=$(CURDIR)/bin/slipway $(GO) test $(PATCHED) -buildvcs=false -count=1 -v -tags "$(TAGS)" -timeout 120m -run '^TestTable$$' ./hack/environments

# What make kubernetes and make kubernetes-scale need. Nothing of the cluster is left afterwards but its programs and logs in build/kubernetes.
kubernetes-programs: image-program
	@hack/deps.sh kubernetes
	@$(MAKE) --no-print-directory $(BASES)
	@$(BASES) make busybox golang debian
	@for target in slipway daemon; do PROGRAM=$(PROGRAMS) $(BASES) exec -- hack/image.sh $$target || exit; done
	@hack/buildkit.sh build/tools buildx
	GO="$(GO)" hack/kubernetes/build.sh
	$(GO) build -buildvcs=false -o build/kubernetes/bin/registry ./hack/kubernetes/registry
KUBERNETES = SLIPWAY_KUBERNETES=$(CURDIR)/build/kubernetes SLIPWAY_BUILDX=$(CURDIR)/build/tools/buildx SLIPWAY_PROGRAM=$(CURDIR)/bin/slipway GO="$(GO)" hack/go.sh test $(PATCHED) -buildvcs=false -count=1 -v -tags "$(TAGS)"

# SCENARIOS=lost,cut chooses some.
kubernetes: kubernetes-programs ## start a Kubernetes of two nodes on this machine, compiled the first time (half an hour), and build on it while pods, nodes and the API server fail
	$(KUBERNETES) -timeout 60m -run '^TestKubernetes$$/$(if $(SCENARIOS),^($(subst $(comma),|,$(SCENARIOS)))$$)' ./hack/kubernetes

# PROOF=stages or builds chooses one; SLIPWAY_SCALE_STAGES and SLIPWAY_SCALE_BUILDS are the seconds that a step waits.
kubernetes-scale: kubernetes-programs ## build on that Kubernetes what waits, with 1, 2, 4 and 8 workers, and print the table of docs/kubernetes.md (three quarters of an hour)
	SLIPWAY_SCALE_ONLY=$(PROOF) $(KUBERNETES) -timeout 90m -run '^TestScale$$' ./hack/kubernetes

# PROJECTS=go-service,... chooses some. The store is kept: Debian's packages are installed once.
warm: build bases ## build small models of projects of ten tools and more warm and cold, with packages of Debian, npm and modules of Go, and compare
	@hack/deps.sh test
	SLIPWAY_WARM=$(or $(PROJECTS),all) SLIPWAY_WARM_ROOT=$(CURDIR)/build/warm SLIPWAY_PROGRAM=$(CURDIR)/bin/slipway $(GO) test $(PATCHED) -buildvcs=false -count=1 -v -tags "$(TAGS)" -timeout 120m -run '^TestProjects$$' ./hack/warm

# Both run, whatever the first one says. With PART=2/8, RUN=regexp or SUITES="flags of hack/suites" a part of them does.
suites: ## run BuildKit's own integration tests against slipway serve, and compare with the lists of those that do not pass
	@$(MAKE) --no-print-directory -k suites-client suites-dockerfile

# BuildKit's API as Docker's daemon has it, and that daemon's own.
suites-engine: build ## run BuildKit's integration tests, with BuildKit's API that Docker's has in it, and moby's, against slipway serve
	@$(MAKE) --no-print-directory -k suites-engine-client suites-engine-dockerfile suites-moby

suites-moby: build
	@hack/deps.sh suites
	@$(MAKE) --no-print-directory $(BASES)
	@$(BASES) make busybox
	@$(GO) build -buildvcs=false -o build/tools/suites ./hack/suites
	@$(BASES) exec -- build/tools/suites -dockerd bin/slipway -buildctl none -logs build/suites/moby.logs $(if $(RUN),-run '$(RUN)') $(SUITES) moby hack/suites/moby.list

suites-engine-client suites-engine-dockerfile: suites-engine-%: build
	@hack/deps.sh suites
	@hack/buildkit.sh build/tools
	@$(GO) build -buildvcs=false -o build/tools/suites ./hack/suites
	build/tools/suites -dockerd bin/slipway -buildctl build/tools/buildctl -logs build/suites/engine-$*.logs $(if $(PART),-part $(PART)) $(if $(RUN),-run '$(RUN)') $(SUITES) \
		$(if $(filter client,$*),client,frontend/dockerfile) hack/suites/engine-$*.list

suites-client suites-dockerfile: suites-%: build
	@hack/deps.sh suites
	@hack/buildkit.sh build/tools
	@$(GO) build -buildvcs=false -o build/tools/suites ./hack/suites
	build/tools/suites -buildkitd bin/slipway -buildctl build/tools/buildctl -logs build/suites/$*.logs $(if $(PART),-part $(PART)) $(if $(RUN),-run '$(RUN)') $(SUITES) \
		-goal $(if $(filter client,$*),90 client,95 frontend/dockerfile) hack/suites/$*.list

clients: build ## run what docs/clients.md tells to type, with the real buildx and buildctl, and Docker's own clients with docker.sock
	@hack/deps.sh clients
	@hack/buildkit.sh build/tools
	@hack/buildkit.sh build/tools/engine docker docker-compose
	@mkdir -p build/tools/engine/dockerode
	@cp hack/dockerode/package.json hack/dockerode/package-lock.json build/tools/engine/dockerode
	@cd build/tools/engine/dockerode && npm ci --silent --no-audit --no-fund --ignore-scripts
	@$(MAKE) --no-print-directory $(BASES)
	@$(BASES) make busybox
	@$(BASES) exec -- hack/clients.sh bin/slipway build/tools
	SLIPWAY_PROGRAM=$(CURDIR)/bin/slipway GO="$(GO)" hack/go.sh test $(PATCHED) -trimpath -buildvcs=false -count=1 -tags "$(TAGS)" -ldflags "-s -w" -run '^TestClients$$/^(docker|docker_run|compose|dockerode)$$' ./internal/cli

clean: ## remove what the other targets made
	rm -rf --one-file-system bin build

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// warmRow is a row of a project that is built by the command line: with --warm, without, and through buildx by BuildKit's daemon, each of which has
// a project and a store of its own. What is timed is the build after a change; of a cold row it is the first one, base image included.
type warmRow struct {
	what string
	cold bool
	// prepare writes a project; edit changes it, with a text that was never there before.
	prepare func(ctx context.Context, p *place, dir string) error
	edit    func(p *place, dir, fresh string) error
	args    []string                // of the Dockerfile
	layouts func(p *place) []string // flags of its named contexts; may be nil
}

func (w warmRow) make(ctx context.Context, p *place) (contest, error) {
	if w.layouts != nil {
		w.args = append(w.args, w.layouts(p)...)
	}
	other, err := p.buildkitDaemon()
	if err != nil {
		return contest{}, err
	}
	c := contest{what: w.what, slipway: missing("-")}
	if !w.cold {
		if c.slipway, err = w.ours(ctx, p, "warm", "--warm"); err != nil {
			return c, err
		}
	}
	if c.bound, err = w.ours(ctx, p, "plain"); err != nil {
		return c, err
	}
	t, err := w.task(ctx, p, "theirs", func(dir string, flags ...string) command { return other.build(dir, append(flags, w.args...)...) }, other.empty)
	c.buildkit = forServer(p, other, func(*place, *daemon) task { return t })
	return c, err
}

// ours builds with slipway, and a store of the contender's.
func (w warmRow) ours(ctx context.Context, p *place, name string, flags ...string) (task, error) {
	store := p.path("store-" + name)
	build := func(dir string, more ...string) command {
		args := []string{p.settings.slipway, "--root", store, "--certs-dir", p.certs, "build", "--network=host", "-t", imageName}
		return command{args: append(append(args, slices.Concat(w.args, flags, more)...), dir)}
	}
	return w.task(ctx, p, name, build, func(context.Context) error { return removeAll(store) })
}

// task is one contender's. Who runs warm has built the project before the change; of others that would not show, but for the stage that does not depend on
// it, which they have built. For a cold row empty removes all that it has.
func (w warmRow) task(ctx context.Context, p *place, name string, build func(dir string, flags ...string) command, empty func(context.Context) error) (task, error) {
	dir := p.path(name)
	if err := w.prepare(ctx, p, dir); err != nil {
		return task{}, err
	}
	edit := func() error { return w.edit(p, dir, p.fresh()) }
	once, first := build(dir), build(dir)
	if name != "warm" {
		first = build(dir, "--target=before")
	}
	once.long, first.long = true, true // on a busy machine
	t := task{
		setup:  func(ctx context.Context) error { return errors.Join(edit(), p.do(ctx, first)) },
		before: func(context.Context, int) error { return edit() },
		run:    func(int) []command { return []command{once} },
	}
	if w.cold {
		t.setup, t.before = func(context.Context) error { return edit() }, func(ctx context.Context, _ int) error { return empty(ctx) }
	}
	return t, nil
}

// service is a service of Go with the modules that many have.
const service = `// Command service answers by gRPC, and counts what it is asked.
package main

import (
	"net"
	"net/http"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

func main() {
	log, _ := zap.NewProduction()
	asked := prometheus.NewCounter(prometheus.CounterOpts{Name: "asked"})
	prometheus.MustRegister(asked)
	store, err := minio.New("store:9000", &minio.Options{Creds: credentials.NewEnvAWS()})
	if err != nil {
		log.Fatal(version, zap.Error(err))
	}
	s := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(s, health.NewServer())
	l, err := net.Listen("tcp", ":9090")
	if err != nil {
		log.Fatal(version, zap.Error(err))
	}
	go s.Serve(l)
	http.Handle("/metrics", promhttp.Handler())
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		asked.Inc()
		buckets, err := store.ListBuckets(r.Context())
		log.Info("listed", zap.Int("buckets", len(buckets)), zap.Error(err))
	})
	log.Fatal("serving", zap.Error(http.ListenAndServe(":8080", nil)))
}
`

// goWarmRow builds the service.
func goWarmRow(cold bool) warmRow {
	w := warmRow{what: "a Go service (gRPC, Prometheus, MinIO, zap), a source file edited", cold: cold}
	if cold {
		w.what = "a Go service (gRPC, Prometheus, MinIO, zap), empty store"
	}
	if proxy := os.Getenv("GOPROXY"); proxy != "" {
		w.args = []string{"--build-arg", "GOPROXY=" + proxy}
	}
	w.edit = func(p *place, dir, fresh string) error {
		return p.write(filepath.Base(dir), map[string]string{"version.go": fmt.Sprintf("package main\n\nconst version = %q\n", fresh)})
	}
	w.prepare = func(ctx context.Context, p *place, dir string) error {
		return errors.Join(w.edit(p, dir, ""), p.write(filepath.Base(dir), map[string]string{
			"main.go": service,
			"go.mod": "module example.com/service\n\ngo 1.26\n\nrequire (\n\tgithub.com/minio/minio-go/v7 v7.1.0\n\tgithub.com/prometheus/client_golang v1.23.2\n" +
				"\tgo.uber.org/zap v1.27.0\n\tgoogle.golang.org/grpc v1.84.0\n)\n",
			"Dockerfile": "FROM golang:1.26 AS before\nWORKDIR /src\nENV CGO_ENABLED=0\nCOPY go.mod go.sum ./\nARG GOPROXY\nRUN go mod download\nFROM before AS build\nCOPY . .\n" +
				"RUN go build -trimpath -ldflags=-s -o /service .\nFROM scratch\nCOPY --from=build /service /service\nENTRYPOINT [\"/service\"]\n",
			".dockerignore": "Dockerfile\n",
		}), p.do(ctx, command{args: []string{"go", "mod", "tidy"}, env: []string{"GOFLAGS=-mod=mod"}, dir: dir, long: true}))
	}
	return w
}

// npmVersions are those of the dependency that changes.
var npmVersions = []string{"4.17.15", "4.17.19", "4.17.20", "4.17.21"}

// npmWarmRow installs the packages of a project, of which one has another version each time.
func npmWarmRow(cold bool) warmRow {
	w := warmRow{what: "npm ci of a front end (React, webpack, Babel), one dependency changed", cold: cold}
	if cold {
		w.what = "npm ci of a front end (React, webpack, Babel), empty store"
	}
	next := map[string]int{}
	w.layouts = func(p *place) []string {
		return []string{"--build-context", "node=oci-layout://" + nodeDir(p) + ":latest"}
	}
	w.edit = func(p *place, dir, _ string) error {
		i := next[dir] % len(npmVersions)
		next[dir]++
		files := map[string]string{}
		for _, name := range []string{"package.json", "package-lock.json"} {
			text, err := os.ReadFile(filepath.Join(dir, "locks", npmVersions[i], name))
			if err != nil {
				return err
			}
			files[name] = string(text)
		}
		return p.write(filepath.Base(dir), files)
	}
	w.prepare = func(ctx context.Context, p *place, dir string) error {
		err := nodeImage(ctx, p)
		err = errors.Join(err, p.write(filepath.Base(dir), map[string]string{
			"src/index.js":  "console.log('front')\n",
			".dockerignore": "*\n!package.json\n!package-lock.json\n!src\n",
			"Dockerfile": "FROM node AS before\nWORKDIR /app\nFROM before AS build\nCOPY package.json package-lock.json ./\nRUN npm ci --ignore-scripts --no-audit --no-fund\nCOPY src src\n" +
				"RUN node src/index.js > /made\nFROM scratch\nCOPY --from=build /made /made\n",
		}))
		for _, version := range npmVersions {
			err = errors.Join(err, npmLock(ctx, p, filepath.Join(dir, "locks", version), version))
		}
		return err
	}
	return w
}

// nodeDir is where the image of Debian with Node.js is kept, an OCI layout of the repository's build directory.
func nodeDir(p *place) string { return filepath.Join(p.repo, "build", "node") }

// nodeImage makes the image, once.
func nodeImage(ctx context.Context, p *place) error {
	if _, err := os.Stat(filepath.Join(nodeDir(p), "index.json")); err == nil {
		return nil
	}
	err := p.write("node", map[string]string{"Dockerfile": "FROM debian:stable-slim\n" +
		"RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates nodejs npm && rm -rf /var/lib/apt/lists/*\n" +
		"COPY --from=certificates ca-certificates.crt /etc/ssl/certs/ca-certificates.crt\n" +
		"ENV npm_config_update_notifier=false npm_config_cafile=/etc/ssl/certs/ca-certificates.crt NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt\n"})
	if err != nil {
		return err
	}
	build := p.slipway("build", "--network=host", "--build-context", "certificates=/etc/ssl/certs", // a proxy of this machine's may have added to them
		"-o", "type=oci,tar=false,name=node:latest,dest="+nodeDir(p), p.path("node"))
	build.long = true
	return p.do(ctx, build)
}

// npmLock writes the package.json and the lock of a version, as the npm of this machine resolves it, once for all contenders of a run.
func npmLock(ctx context.Context, p *place, dir, version string) error {
	kept := filepath.Join(p.room.dir, "npm-locks", version)
	if _, err := os.Stat(filepath.Join(kept, "package-lock.json")); err != nil {
		text := strings.ReplaceAll(frontEnd, "VERSION", version)
		if err := errors.Join(os.MkdirAll(kept, 0o755), os.WriteFile(filepath.Join(kept, "package.json"), []byte(text), 0o644)); err != nil {
			return err
		}
		lock := command{args: []string{"npm", "install", "--package-lock-only", "--ignore-scripts", "--no-audit", "--no-fund"}, dir: kept, long: true}
		lock.env = []string{"npm_config_omit_lockfile_registry_resolved=false"}
		if err := p.do(ctx, lock); err != nil {
			return err
		}
	}
	return os.CopyFS(dir, os.DirFS(kept))
}

const frontEnd = `{
  "name": "front",
  "version": "1.0.0",
  "private": true,
  "dependencies": {"lodash": "VERSION", "react": "18.3.1", "react-dom": "18.3.1", "react-router-dom": "6.26.2"},
  "devDependencies": {
    "@babel/core": "7.25.2", "@babel/preset-env": "7.25.4", "@babel/preset-react": "7.24.7", "babel-loader": "9.2.1",
    "webpack": "5.94.0", "webpack-cli": "5.1.4"
  }
}
`

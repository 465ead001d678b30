package warm

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path"
	"slices"
	"strings"
	"sync"
)

// Registries are servers on loopback that projects download from. Modules of Go and packages of npm come from where this machine gets them, once;
// wheels, source distributions and crates are made of the project's own files. They write down what they are asked for.
type Registries struct {
	Addrs map[string]string // by kind: "go", "npm", "pypi", "crates"; host:port

	mu      sync.Mutex
	asked   []string
	kept    map[string]answer
	servers []*http.Server
}

const npmRegistry = "https://registry.npmjs.org"

// answer is what a registry answers.
type answer struct {
	status int
	kind   string // Content-Type
	body   []byte
}

// Serve starts the registries; files are a project's, of which those below "wheels/NAME-VERSION", "sdists/NAME-VERSION" and
// "crates/NAME-VERSION" are packages.
func Serve(files map[string]string) (*Registries, error) {
	r := &Registries{Addrs: map[string]string{}, kept: map[string]answer{}}
	goProxy, err := exec.Command("go", "env", "GOPROXY").Output()
	if err != nil {
		return nil, fmt.Errorf("finding the proxy of modules: %w", err)
	}
	first, _, _ := strings.Cut(strings.TrimSpace(string(goProxy)), ",")
	pypi, err := index(files)
	if err != nil {
		return nil, err
	}
	crates, err := sparse(files)
	if err != nil {
		return nil, err
	}
	for kind, get := range map[string]func(name string) answer{
		"go":     r.passedOn(strings.TrimSuffix(first, "/")),
		"npm":    r.passedOn(npmRegistry),
		"pypi":   among(pypi),
		"crates": among(crates),
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			r.Close()
			return nil, err
		}
		s := &http.Server{Handler: r.handler(kind, get)}
		r.Addrs[kind], r.servers = l.Addr().String(), append(r.servers, s)
		if kind == "crates" {
			crates["/config.json"] = answer{http.StatusOK, "application/json", fmt.Appendf(nil, `{"dl":"http://%s/crates/{crate}/{version}"}`, l.Addr())}
		}
		go s.Serve(l) //nolint:errcheck // Close ends it
	}
	return r, nil
}

// Close ends the servers.
func (r *Registries) Close() {
	for _, s := range r.servers {
		s.Close()
	}
}

// Asked gives what was asked for since the last call, sorted, as "KIND PATH".
func (r *Registries) Asked() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.asked
	r.asked = nil
	slices.Sort(all)
	return slices.Compact(all)
}

func (r *Registries) handler(kind string, get func(string) answer) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		r.asked = append(r.asked, kind+" "+req.URL.Path)
		r.mu.Unlock()
		a := get(req.URL.EscapedPath())
		if strings.Contains(a.kind, "json") { // what leads to npm's registry leads here
			a.body = bytes.ReplaceAll(a.body, []byte(npmRegistry), []byte("http://"+req.Host))
		}
		if a.kind != "" {
			w.Header().Set("Content-Type", a.kind)
		}
		if strings.HasPrefix(req.URL.Path, "/files/") { // as PyPI has it: pip keeps nothing else
			w.Header().Set("Cache-Control", "max-age=365000000, immutable, public")
		}
		w.WriteHeader(a.status)
		w.Write(a.body) //nolint:errcheck // the client tells
	})
}

// passedOn asks another server, once for each name.
func (r *Registries) passedOn(base string) func(string) answer {
	return func(name string) answer {
		r.mu.Lock()
		a, ok := r.kept[base+name]
		r.mu.Unlock()
		if ok {
			return a
		}
		resp, err := http.Get(base + name)
		if err != nil {
			return answer{status: http.StatusBadGateway, body: []byte(err.Error())}
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return answer{status: http.StatusBadGateway, body: []byte(err.Error())}
		}
		a = answer{resp.StatusCode, resp.Header.Get("Content-Type"), body}
		if a.status == http.StatusOK {
			r.mu.Lock()
			r.kept[base+name] = a
			r.mu.Unlock()
		}
		return a
	}
}

// among answers with what is there.
func among(all map[string]answer) func(string) answer {
	return func(name string) answer {
		if a, ok := all[name]; ok {
			return a
		}
		return answer{status: http.StatusNotFound}
	}
}

// member is a file of a package.
type member struct{ name, content string }

// packages are the files below a directory of a project, by "NAME-VERSION", sorted.
func packages(files map[string]string, dir string) map[string][]member {
	all := map[string][]member{}
	for name, content := range files {
		if rest, ok := strings.CutPrefix(name, dir+"/"); ok {
			pkg, file, _ := strings.Cut(rest, "/")
			all[pkg] = append(all[pkg], member{file, content})
		}
	}
	for _, members := range all {
		slices.SortFunc(members, func(a, b member) int { return strings.Compare(a.name, b.name) })
	}
	return all
}

// split gives the name and the version of a package.
func split(pkg string) (name, version string) {
	i := strings.LastIndexByte(pkg, '-')
	return pkg[:i], pkg[i+1:]
}

// index is a simple index of Python packages (PEP 503).
func index(files map[string]string) (map[string]answer, error) {
	all, links := map[string]answer{}, map[string]string{}
	add := func(pkg, file string, body []byte) {
		name, _ := split(pkg)
		all["/files/"+file] = answer{http.StatusOK, "application/octet-stream", body}
		links[name] += fmt.Sprintf("<a href=\"/files/%s#sha256=%x\">%[1]s</a><br>\n", file, sha256.Sum256(body))
	}
	for pkg, members := range packages(files, "wheels") {
		body, err := wheel(pkg, members)
		if err != nil {
			return nil, err
		}
		add(pkg, pkg+"-py3-none-any.whl", body)
	}
	for pkg, members := range packages(files, "sdists") {
		body, err := archive(pkg, members)
		if err != nil {
			return nil, err
		}
		add(pkg, pkg+".tar.gz", body)
	}
	for name, text := range links {
		all["/simple/"+name+"/"] = answer{http.StatusOK, "text/html", []byte("<!DOCTYPE html><html><body>\n" + text + "</body></html>\n")}
	}
	return all, nil
}

// wheel makes a wheel of modules of Python.
func wheel(pkg string, members []member) ([]byte, error) {
	name, version := split(pkg)
	info := pkg + ".dist-info/"
	members = append(slices.Clone(members),
		member{info + "METADATA", "Metadata-Version: 2.1\nName: " + name + "\nVersion: " + version + "\n"},
		member{info + "WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"})
	record := ""
	for _, m := range members {
		sum := sha256.Sum256([]byte(m.content))
		record += fmt.Sprintf("%s,sha256=%s,%d\n", m.name, base64.RawURLEncoding.EncodeToString(sum[:]), len(m.content))
	}
	members = append(members, member{info + "RECORD", record + info + "RECORD,,\n"})
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, m := range members {
		w, err := z.Create(m.name)
		if err != nil {
			return nil, err
		}
		if _, err := io.WriteString(w, m.content); err != nil {
			return nil, err
		}
	}
	err := z.Close()
	return b.Bytes(), err
}

// archive makes a tar of a package, of which the bytes depend on nothing but its files: it is stored, not compressed.
func archive(pkg string, members []member) ([]byte, error) {
	var b bytes.Buffer
	gz, err := gzip.NewWriterLevel(&b, gzip.NoCompression)
	if err != nil {
		return nil, err
	}
	t := tar.NewWriter(gz)
	for _, m := range members {
		if err := t.WriteHeader(&tar.Header{Name: path.Join(pkg, m.name), Mode: 0o644, Size: int64(len(m.content))}); err != nil {
			return nil, err
		}
		if _, err := io.WriteString(t, m.content); err != nil {
			return nil, err
		}
	}
	if err := t.Close(); err != nil {
		return nil, err
	}
	err = gz.Close()
	return b.Bytes(), err
}

// sparse is a sparse registry of crates, none of which needs another one, without its config.json, which has its address.
func sparse(files map[string]string) (map[string]answer, error) {
	all, lines := map[string]answer{}, map[string]string{}
	for pkg, members := range packages(files, "crates") {
		name, version := split(pkg)
		body, err := archive(pkg, members)
		if err != nil {
			return nil, err
		}
		line, err := json.Marshal(map[string]any{
			"name": name, "vers": version, "deps": []string{}, "cksum": fmt.Sprintf("%x", sha256.Sum256(body)), "features": map[string]any{}, "yanked": false,
		})
		if err != nil {
			return nil, err
		}
		lines[name] += string(line) + "\n"
		all["/crates/"+name+"/"+version] = answer{http.StatusOK, "application/octet-stream", body}
	}
	for name, text := range lines {
		all["/"+path.Join(name[:2], name[2:4], name)] = answer{http.StatusOK, "text/plain", []byte(text)}
	}
	return all, nil
}

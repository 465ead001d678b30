package warm

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/md5"  //nolint:gosec // Bundler's index has it
	"crypto/sha1" //nolint:gosec // Composer's and Maven's have it
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"
)

// kinds are the registries whose packages are made of a project's files, by kind: what each one answers that has an address. A package is the files
// below DIRECTORY/NAME-VERSION, and needs no other one.
//
//	pypi     wheels, sdists   a simple index of Python
//	crates   crates           a sparse registry of cargo
//	gems     gems             an index of Bundler's
//	maven    jars             a repository of Maven's, of the group com.example
//	php      php              one of Composer's, of the vendor example
func kinds() map[string]func(files map[string]string, addr string) (map[string]answer, error) {
	return map[string]func(map[string]string, string) (map[string]answer, error){"pypi": index, "crates": sparse, "gems": gems, "maven": maven, "php": composer}
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
func index(files map[string]string, _ string) (map[string]answer, error) {
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

// zipped makes a zip of files, of which the bytes depend on nothing else.
func zipped(members []member) ([]byte, error) {
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
	return zipped(append(members, member{info + "RECORD", record + info + "RECORD,,\n"}))
}

// archive makes a tar of a package, compressed, of which the bytes depend on nothing but its files.
func archive(pkg string, members []member) ([]byte, error) {
	under := slices.Clone(members)
	for i := range under {
		under[i].name = path.Join(pkg, under[i].name)
	}
	body, err := tarred(under)
	if err != nil {
		return nil, err
	}
	return gzipped(body)
}

// tarred makes a tar of files.
func tarred(members []member) ([]byte, error) {
	var b bytes.Buffer
	t := tar.NewWriter(&b)
	for _, m := range members {
		if err := t.WriteHeader(&tar.Header{Name: m.name, Mode: 0o644, Size: int64(len(m.content))}); err != nil {
			return nil, err
		}
		if _, err := io.WriteString(t, m.content); err != nil {
			return nil, err
		}
	}
	err := t.Close()
	return b.Bytes(), err
}

// gzipped is what gzip decompresses to some bytes: they are stored, not compressed.
func gzipped(data []byte) ([]byte, error) {
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.NoCompression)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	err = w.Close()
	return b.Bytes(), err
}

// sparse is a sparse registry of crates, none of which needs another one.
func sparse(files map[string]string, addr string) (map[string]answer, error) {
	lines := map[string]string{}
	all := map[string]answer{"/config.json": {http.StatusOK, "application/json", fmt.Appendf(nil, `{"dl":"http://%s/crates/{crate}/{version}"}`, addr)}}
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

// gems is an index of Bundler's, by which it needs nothing but the gems themselves.
func gems(files map[string]string, _ string) (map[string]answer, error) {
	all, lines := map[string]answer{}, map[string]string{}
	for _, pkg := range slices.Sorted(maps.Keys(packages(files, "gems"))) {
		name, version := split(pkg)
		body, err := gem(name, version, packages(files, "gems")[pkg])
		if err != nil {
			return nil, err
		}
		all["/gems/"+pkg+".gem"] = answer{http.StatusOK, "application/octet-stream", body}
		lines[name] += fmt.Sprintf("%s |checksum:%x\n", version, sha256.Sum256(body))
	}
	list, names := "created_at: 2020-01-01T00:00:00Z\n---\n", "---\n"
	for _, name := range slices.Sorted(maps.Keys(lines)) {
		var versions []string
		for line := range strings.Lines(lines[name]) {
			version, _, _ := strings.Cut(line, " ")
			versions = append(versions, version)
		}
		info := "---\n" + lines[name]
		all["/info/"+name] = answer{http.StatusOK, "text/plain", []byte(info)}
		list += fmt.Sprintf("%s %s %x\n", name, strings.Join(versions, ","), md5.Sum([]byte(info))) //nolint:gosec // it is no secret
		names += name + "\n"
	}
	all["/versions"] = answer{http.StatusOK, "text/plain", []byte(list)}
	all["/names"] = answer{http.StatusOK, "text/plain", []byte(names)}
	return all, nil
}

// gem makes a package of Ruby.
func gem(name, version string, members []member) ([]byte, error) {
	spec := "--- !ruby/object:Gem::Specification\nname: " + name + "\nversion: !ruby/object:Gem::Version\n  version: '" + version + "'" +
		"\nplatform: ruby\nauthors:\n- test\nbindir: bin\ndate: 2020-01-01 00:00:00.000000000 Z\ndependencies: []\nfiles:\n"
	for _, m := range members {
		spec += "- " + m.name + "\n"
	}
	spec += "require_paths:\n- lib\nspecification_version: 4\nsummary: test\n"
	for _, which := range []string{"required_ruby_version", "required_rubygems_version"} {
		spec += which + ": !ruby/object:Gem::Requirement\n  requirements:\n  - - \">=\"\n    - !ruby/object:Gem::Version\n      version: '0'\n"
	}
	data, err := tarred(members)
	if err != nil {
		return nil, err
	}
	parts := []member{{"metadata.gz", spec}, {"data.tar.gz", string(data)}}
	for i := range parts {
		part, err := gzipped([]byte(parts[i].content))
		if err != nil {
			return nil, err
		}
		parts[i].content = string(part)
	}
	return tarred(parts)
}

// maven is a repository of Maven's.
func maven(files map[string]string, _ string) (map[string]answer, error) {
	all := map[string]answer{}
	for pkg, members := range packages(files, "jars") {
		name, version := split(pkg)
		body, err := zipped(append([]member{{"META-INF/MANIFEST.MF", "Manifest-Version: 1.0\n"}}, members...))
		if err != nil {
			return nil, err
		}
		pom := fmt.Appendf(nil, `<project><modelVersion>4.0.0</modelVersion><groupId>com.example</groupId><artifactId>%s</artifactId><version>%s</version></project>`, name, version)
		for ext, data := range map[string][]byte{"jar": body, "pom": pom} {
			at := fmt.Sprintf("/com/example/%s/%s/%s.%s", name, version, pkg, ext)
			all[at] = answer{http.StatusOK, "application/octet-stream", data}
			all[at+".sha1"] = answer{http.StatusOK, "text/plain", fmt.Appendf(nil, "%x", sha1.Sum(data))} //nolint:gosec // see above
		}
	}
	return all, nil
}

// composer is a repository of Composer's.
func composer(files map[string]string, addr string) (map[string]answer, error) {
	all, list := map[string]answer{}, map[string]map[string]any{}
	for pkg, members := range packages(files, "php") {
		name, version := split(pkg)
		body, err := zipped(members)
		if err != nil {
			return nil, err
		}
		all["/files/"+pkg+".zip"] = answer{http.StatusOK, "application/zip", body}
		name = "example/" + name
		if list[name] == nil {
			list[name] = map[string]any{}
		}
		list[name][version] = map[string]any{
			"name": name, "version": version, "autoload": map[string]any{"classmap": []string{""}},
			"dist": map[string]any{"type": "zip", "url": "http://" + addr + "/files/" + pkg + ".zip", "shasum": fmt.Sprintf("%x", sha1.Sum(body))}, //nolint:gosec // see above
		}
	}
	data, err := json.Marshal(map[string]any{"packages": list})
	all["/packages.json"] = answer{http.StatusOK, "application/json", data}
	return all, err
}

package layering

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// liveTrees are the packages that read or write trees which a process that is not trusted may change at the
// same time. What a path leads to there may be another thing at each look, and outside of the tree: they use
// descriptors (openat2, fstat, /proc/self/fd).
var liveTrees = []string{"internal/layer", "internal/container"}

// byPath are the functions of those packages that may use paths all the same: nobody but slipway's user writes
// where they look.
var byPath = map[string]string{
	"internal/layer.NewDirWriter":              "the root itself, which the caller names",
	"internal/layer.dirTree.fd":                "the root itself, which the caller names",
	"internal/layer.DropUnchanged":             "the root itself, which the caller names",
	"internal/layer.RemoveAll":                 "the parent directory, which the caller names",
	"internal/layer.hostFile.open":             "a descriptor's name in /proc",
	"internal/layer.OpenRegular":               "a file that the caller names",
	"internal/layer.TempFile":                  "a directory of the store, or the system's for temporary files",
	"internal/layer.readNamed":                 "a name below a descriptor's in /proc, whose last part is not followed",
	"internal/layer.listxattrat":               "a name below a descriptor's in /proc, whose last part is not followed",
	"internal/layer.DirWriter.attributes":      "a descriptor's name in /proc",
	"internal/layer.setTimes":                  "a descriptor's name in /proc",
	"internal/layer.chmodOf":                   "a descriptor's name in /proc",
	"internal/layer.appendRecords":             "a file beside a layer, in the store",
	"internal/layer.complete":                  "the root itself, which the caller names",
	"internal/layer.completer.object":          "a name below a descriptor's in /proc, whose last part is not followed",
	"internal/layer.completer.read":            "a name below a descriptor's in /proc, whose last part is not followed",
	"internal/layer.readIDs":                   "files of /proc",
	"internal/container.Manager.Create":        "the store's directory of a container that nobody knows yet",
	"internal/container.newWork":               "a directory of the store",
	"internal/container.Manager.commitLayer":   "the root of the writable layer itself",
	"internal/container.Manager.State":         "files of the store",
	"internal/container.Manager.saveState":     "files of the store",
	"internal/container.Manager.lock":          "files of the store",
	"internal/container.Manager.lockToCopy":    "files of the store",
	"internal/container.Manager.keep":          "files of the store",
	"internal/container.Manager.isKept":        "files of the store",
	"internal/container.lockFile":              "files of the store",
	"internal/container.Manager.openRoot":      "the root itself, by the number of its process, which is looked at again afterwards",
	"internal/container.readIDMap":             "files of /proc, by the number of a process, which is looked at again afterwards",
	"internal/container.Manager.await":         "files of the store",
	"internal/container.Manager.Gone":          "files of the store",
	"internal/container.Manager.hosts":         "files of the store",
	"internal/container.Manager.reach":         "files of the store",
	"internal/container.Manager.Watch":         "files of the store",
	"internal/container.Manager.MakeVolume":    "files of the store: a process in a container has what is in _data, and not that itself",
	"internal/container.Manager.Volume":        "files of the store",
	"internal/container.Manager.Volumes":       "files of the store",
	"internal/container.Manager.take":          "files of the store",
	"internal/container.Manager.deleteLeft":    "files of the store",
	"internal/container.Manager.MakeNetwork":   "files of the store",
	"internal/container.Manager.readNetwork":   "files of the store",
	"internal/container.Manager.Networks":      "files of the store",
	"internal/container.Manager.RemoveNetwork": "files of the store",
	"internal/container.Manager.FillVolume":    "the root of a volume itself, which a process in a container cannot put something in the place of",
	"internal/container.isOther":               "the sources of mounts, by the word of who has made the container, and a volume's directory",
	"internal/container.isGuardian":            "the host's /proc",
	"internal/container.stat":                  "the host's /proc",
	"internal/container.numbers":               "the host's /proc",
	"internal/container.candidates":            "the host's /proc",
	"internal/container.descendants":           "the host's /proc",
	"internal/container.rootedIn":              "the host's /proc",
	"internal/container.openHostSource":        "the host's side of a copy, by its user's word",
	"internal/container.hostDestination":       "the host's side of a copy, by its user's word",
	"internal/container.hostSink.Add":          "for a better message: the writer itself replaces no directory",
	"internal/container.inbound.parents":       "the writable layer of a container that is locked and does not run",
	"internal/container.Manager.mountOf":       "the source of a mount, by the word of who has made the container, or a volume's directory",
	"internal/container.isWhiteout":            "the writable layer of a container that is locked and does not run",
}

// takesPath tells whether a function of the standard library, x/sys or atomicfile looks a path up from the working directory
// or the host's root. (With AT_FDCWD, those that take a descriptor do so as well.)
func takesPath(pkg, name string) bool {
	var names string
	switch pkg {
	case "os":
		names = "Chmod Chown Lchown Chtimes Create CreateTemp CopyFS DirFS Link Lstat Stat Mkdir MkdirAll MkdirTemp Open OpenFile OpenRoot " +
			"ReadDir ReadFile Readlink Remove RemoveAll Rename Symlink Truncate WriteFile"
	case "unix", "syscall":
		names = "Access Chmod Chown Creat Getxattr Lchown Lgetxattr Link Listxattr Llistxattr Lremovexattr Lsetxattr Lstat Lutimes Mkdir Mkfifo " +
			"Mknod Mount Open Readlink Removexattr Rename Rmdir Setxattr Stat Statfs Symlink Truncate Unlink Unmount Utimes UtimesNano"
	case "filepath":
		names = "EvalSymlinks Glob Walk WalkDir"
	case "securejoin", "atomicfile":
		return true
	}
	return slices.Contains(strings.Fields(names), name)
}

// TestLiveTreesByDescriptor finds functions that take a path in the packages of liveTrees.
func TestLiveTreesByDescriptor(t *testing.T) {
	used := map[string]bool{}
	for _, p := range packages(t) {
		self := strings.TrimPrefix(p.ImportPath, module)
		if !slices.Contains(liveTrees, self) {
			continue
		}
		for _, name := range append(p.GoFiles, p.CgoFiles...) {
			set := token.NewFileSet()
			file, err := parser.ParseFile(set, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			for _, decl := range file.Decls {
				where := self + "." + declared(decl)
				ast.Inspect(decl, func(n ast.Node) bool {
					sel, ok := n.(*ast.SelectorExpr)
					if !ok {
						return true
					}
					x, ok := sel.X.(*ast.Ident)
					if ok && (takesPath(x.Name, sel.Sel.Name) || sel.Sel.Name == "AT_FDCWD") {
						used[where] = true
						if byPath[where] == "" {
							t.Errorf("%s: %s.%s takes a path, in %s: use a descriptor, or say in byPath why nobody can change what it leads to",
								set.Position(sel.Pos()), x.Name, sel.Sel.Name, where)
						}
					}
					return true
				})
			}
		}
	}
	for where := range byPath {
		if !used[where] {
			t.Errorf("byPath names %s, which uses no path", where)
		}
	}
}

// declared is the name of a function, with that of the type of a method.
func declared(decl ast.Decl) string {
	fn, ok := decl.(*ast.FuncDecl)
	if !ok {
		return "(not in a function)"
	}
	if fn.Recv == nil {
		return fn.Name.Name
	}
	typ := fn.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	if id, ok := typ.(*ast.Ident); ok {
		return id.Name + "." + fn.Name.Name
	}
	return fn.Name.Name
}

package layer

// WalkLayer hands the entries of an overlay-native directory to a sink, parents first, siblings
// in byte order; it does not close the sink. The root itself is not part of a layer. Names of one
// inode are hard links of the first of them.
//
// # Caveats
//
// Only names inside of the directory count as hard links, and every two names of an inode inside
// of it do: whoever puts a file of another layer there with link(2) must not do it twice.
func WalkLayer(dir string, sink Sink) error {
	type inode struct{ dev, ino uint64 }
	first := map[inode]string{}
	return Walk(OpenDir(dir, DirOptions{Overlay: true, Immutable: true}), ".", func(e *Entry) error {
		if e.Path == "." {
			return nil
		}
		if e.Nlink > 1 {
			id := inode{e.Dev, e.Inode}
			if target, ok := first[id]; ok {
				e.Hardlink, e.Link, e.Size, e.Content = true, target, 0, nil
			} else {
				first[id] = e.Path
			}
		}
		return sink.Add(e)
	})
}

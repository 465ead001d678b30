package layer

// WriteTree hands every entry of a tree but its root to a sink, parents first, siblings in byte
// order; it does not close the sink. Names of one file are hard links of the first of them.
func WriteTree(t Tree, sink Sink) error { return Walk(t, ".", linked(sink)) }

// WriteLive is [WriteTree] for a tree that is changed meanwhile, see [WalkLive].
func WriteLive(t Tree, sink Sink) error { return WalkLive(t, ".", true, linked(sink)) }

// linked hands entries to a sink, later names of one file as hard links.
func linked(sink Sink) func(*Entry) error {
	first := map[inode]string{}
	return func(e *Entry) error {
		if e.Path == "." {
			return nil
		}
		if e.Nlink > 1 && !e.IsDir() {
			id := inode{e.Dev, e.Inode}
			target, ok := first[id]
			if !ok {
				first[id] = e.Path
				return sink.Add(e)
			}
			link := *e
			link.Hardlink, link.Link, link.Size, link.Content, link.Digest = true, target, 0, nil, ""
			return sink.Add(&link)
		}
		return sink.Add(e)
	}
}

// WalkLayer is [WriteTree] for an overlay-native directory. The root itself is not part of a
// layer.
//
// # Caveats
//
// Only names inside of the directory count as hard links, and every two names of an inode inside
// of it do: whoever puts a file of another layer there with link(2) must not do it twice.
func WalkLayer(dir string, sink Sink) error {
	return WriteTree(OpenDir(dir, DirOptions{Overlay: true, Immutable: true}), sink)
}

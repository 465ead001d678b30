package main

import "regexp"

// before is an edit that adds something in front of a text.
func before(file, text, add string) edit { return edit{file, text, add + text} }

// defects are those that are planted: each breaks one promise of docs/reliability.md in one place.
var defects = []defect{
	{
		name: "durable-before-syncfs", kind: "power", tells: `came before what it speaks of|not whole|system check finds|wrong`,
		what: "records say that something is on the disk, and then it is synced",
		edits: []edit{before("internal/store/store.go", "\tif err := syncfs(s.root); err != nil {\n\t\treturn fmt.Errorf(\"syncing store: %w\", err)",
			"\tif planted(\"durable-before-syncfs\") {\n\t\tdefer syncfs(s.root)\n\t} else")},
	},
	{
		name: "no-syncfs", kind: "power", tells: `came before what it speaks of|not whole|system check finds|wrong`,
		what: "records say that something is on the disk, and nothing is synced",
		edits: []edit{{"internal/store/store.go", "var syncfs = func(path string) error {\n",
			"var syncfs = func(path string) error {\n\tif planted(\"no-syncfs\") {\n\t\treturn nil\n\t}\n"}},
	},
	{
		name: "name-before-sync", kind: "power", tells: `not whole|system check finds|wrong|has to work`,
		what: "an image has its name, and then what it names is synced",
		edits: []edit{before("internal/store/images.go", "\tif err := s.Sync(ctx); err != nil {\n\t\treturn err\n\t}\n\terr := s.updateOnDisk(ctx, func(tx *sql.Tx) error {\n\t\tfor _, img",
			"\tif planted(\"name-before-sync\") {\n\t\tdefer s.Sync(ctx)\n\t} else")},
	},
	{
		name: "name-not-on-disk", kind: "power", tells: `lost:|system check finds|not whole|came before`,
		what: "the record of a name, or that something is gone, is not synced",
		edits: []edit{before("internal/store/store.go", "\tif err := syncFile(filepath.Join(s.root, \"meta.db-wal\")); err != nil {",
			"\tif planted(\"name-not-on-disk\") {\n\t\treturn nil\n\t}\n")},
	},
	{
		name: "boot-ignored", kind: "power", tells: `came before what it speaks of|not whole|system check finds|wrong|has to work`,
		what:  "records that were not synced are believed after another start of the machine",
		edits: []edit{{"internal/store/store.go", "Scan(&stale); err != nil || !stale {", "Scan(&stale); err != nil || !stale || planted(\"boot-ignored\") {"}},
	},
	{
		name: "blob-record-first", kind: "kill", tells: `came before what it speaks of`,
		what: "a blob is recorded, and then put in its place", narrow: func(s *settings) { s.calls = regexp.MustCompile("rename") },
		edits: []edit{
			before("internal/store/blobs.go", "\treturn s.update(ctx, func(tx *sql.Tx) error {\n\t\tvar recorded int64", "\tif planted(\"blob-record-first\") {\n\t\tdefer s.rename(path, s.blobPath(d))\n\t}\n"),
			before("internal/store/blobs.go", "\t\tif err := s.rename(path, s.blobPath(d)); err != nil {", "\t\tif planted(\"blob-record-first\") {\n\t\t} else"),
		},
	},
	{
		name: "directory-record-first", kind: "kill", tells: `came before what it speaks of`,
		what: "a layer's directory is recorded, and then put in its place", narrow: func(s *settings) { s.calls = regexp.MustCompile("rename") },
		edits: []edit{before("internal/store/layers.go", "\terr = d.s.update(ctx, func(tx *sql.Tx) (err error) {\n\t\tif placed, err = d.place(tx)",
			"\tif planted(\"directory-record-first\") {\n\t\tif err := d.s.update(ctx, func(tx *sql.Tx) error { return d.s.putLayer(tx, info) }); err != nil {\n\t\t\treturn err\n\t\t}\n\t}\n")},
	},
	{
		name: "deleted-before-forgotten", kind: "kill", tells: `came before what it speaks of|system check finds`,
		what: "files are taken away, and then the records of them",
		narrow: func(s *settings) {
			s.calls, s.deeds = regexp.MustCompile("pwrite64|fsync"), regexp.MustCompile("^(builder|system|image) prune")
		},
		edits: []edit{before("internal/store/collect.go", "\t\treturn errors.Join(forget(tx, \"layers\"",
			"\t\tif planted(\"deleted-before-forgotten\") {\n\t\t\tif err := s.moveAway(keep, trash); err != nil {\n\t\t\t\treturn err\n\t\t\t}\n\t\t}\n")},
	},
	{
		name: "kept-record-first", kind: "kill", tells: `a wrong step is kept|came before what it speaks of|has to work`,
		what: "a failed step is recorded as a container, and then its files are put there", narrow: func(s *settings) {
			s.calls, s.deeds = regexp.MustCompile("rename"), regexp.MustCompile("on-failure")
		},
		edits: []edit{before("internal/store/containers.go", "\terr = s.updateOnDisk(ctx, func(tx *sql.Tx) error {\n\t\tif err := nameFree(tx, c.Name)",
			"\tif planted(\"kept-record-first\") && len(begin) > 0 {\n\t\terr := s.updateOnDisk(ctx, func(tx *sql.Tx) error {\n\t\t\t"+
				"_, err := tx.Exec(\"INSERT INTO containers(id,name,record) VALUES(?,?,?)\", c.ID, c.Name, string(data))\n\t\t\treturn err\n\t\t})\n"+
				"\t\tif err == nil {\n\t\t\terr = s.makeContainer(c.ID, begin)\n\t\t}\n\t\treturn err\n\t}\n")},
	},
	{
		name: "rests-stay", kind: "kill", tells: `there is still`,
		what: "what a process left that was killed is not deleted",
		edits: []edit{{"internal/store/lease.go", "func (s *Store) sweepLease(id, path string, how int) {\n",
			"func (s *Store) sweepLease(id, path string, how int) {\n\tif planted(\"rests-stay\") {\n\t\treturn\n\t}\n"}},
	},
	{
		name: "failed-rename-recorded", kind: "fail", tells: `came before what it speaks of`,
		what: "a layer's directory is recorded that could not be put in its place", narrow: func(s *settings) { s.calls = regexp.MustCompile("rename") },
		edits: []edit{{"internal/store/layers.go", "\terr = os.Rename(d.FS, fs)\n\tif errors.Is(err, os.ErrExist) {",
			"\terr = os.Rename(d.FS, fs)\n\tif planted(\"failed-rename-recorded\") && !errors.Is(err, os.ErrExist) {\n\t\terr = nil\n\t}\n\tif errors.Is(err, os.ErrExist) {"}},
	},
	{
		name: "no-reserve", kind: "full", tells: `with no space|no space left|has to work`,
		what: "no space is kept to open the store and to prune it",
		edits: []edit{{"internal/store/space.go", "func (s *Store) keepReserve() {\n",
			"func (s *Store) keepReserve() {\n\tif planted(\"no-reserve\") {\n\t\treturn\n\t}\n"}},
	},
	{
		name: "digest-not-verified", kind: "damage", tells: `not what its name says|wrong|has to be there`,
		what: "the bytes of a blob are not compared with its digest", narrow: func(s *settings) { s.places = regexp.MustCompile("^blobs") },
		edits: []edit{{"internal/store/blobs.go", "got != v.want {", "got != v.want && !planted(\"digest-not-verified\") {"}},
	},
	{
		name: "directories-not-compared", kind: "form", tells: `does not find`,
		what: "`system check` does not look into directories",
		edits: []edit{{"internal/store/checkforms.go", "func (c *checker) checkDir(ctx context.Context, l LayerInfo) error {\n",
			"func (c *checker) checkDir(ctx context.Context, l LayerInfo) error {\n\tif planted(\"directories-not-compared\") {\n\t\treturn nil\n\t}\n"},
			before("internal/store/checkcompare.go", "\tvar files differences\n\terr := layer.Diff(tree, &readTree", "\tif planted(\"directories-not-compared\") {\n\t\treturn nil\n\t}\n")},
	},
	{
		name: "half-upgraded", kind: "upgrade", tells: `share`,
		what:  "a store is upgraded though there was no space for all of it",
		edits: []edit{before("internal/store/schema.go", "\t\tif IsFull(err) {\n\t\t\treturn &noCopies", "\t\tif planted(\"half-upgraded\") && IsFull(err) {\n\t\t\tcontinue\n\t\t}\n")},
	},
	{
		name: "leases-ignored", kind: "many", tells: `has to work beside others|not whole|system check finds|came before|has to be there`,
		what:  "what other processes use is collected",
		edits: []edit{before("internal/store/collect.go", "\t\tif err := errors.Join(keep.addNamed(ctx), keep.addResults(ctx)", "\t\tif planted(\"leases-ignored\") {\n\t\t\tkeep.others = others{}\n\t\t}\n")},
	},
}

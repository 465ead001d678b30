package layer

import "errors"

// OverlayOrigin is the attribute that overlayfs gives, with "userxattr", to what it has copied from a layer below, and to directories that it merges with others.
const OverlayOrigin = userOverlayPrefix + "origin"

// Beside are the records of symbolic links, pipes and devices that are beside directories of layers, by their paths.
type Beside map[string][]sideRecord

// ReadBeside reads what is beside directories of layers, base first. What cannot be read is left out.
func (f Flavor) ReadBeside(dirs []string) (Beside, error) {
	all := Beside{}
	var errs []error
	for _, dir := range dirs {
		records, err := readRecords(f.Records(dir))
		errs = append(errs, err)
		for path, rec := range records {
			all[path] = append(all[path], rec)
		}
	}
	return all, errors.Join(errs...)
}

// Link is the record of what is at a path, relative to the directories, and has a time of modification in nanoseconds.
func (b Beside) Link(path string, mtime int64) (r Record, found bool) {
	for _, rec := range b[path] {
		if rec.Time == mtime {
			r, found = ParseRecord(rec.Owner)
		}
	}
	return r, found
}

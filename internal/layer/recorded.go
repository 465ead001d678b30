package layer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// What a disk cannot hold of a file because of whom slipway runs as is recorded, in stores of the flavor [User]: owners that
// its user namespace does not have, attributes that only root of the machine may set, permissions that would lock out who has
// no capabilities, devices. What is recorded stands in the file's own attributes, so that overlayfs takes it along when a
// process changes the file:
//
//	user.slipway.owner     UID:GID, UID:GID:MODE or UID:GID:MODE:MAJOR:MINOR, the mode being octal, with the type of a device, for
//	                       which an empty regular file stands
//	user.slipway.x.NAME    the attribute NAME
//
// Symbolic links, and everything else that is neither a file nor a directory, cannot have such attributes. Theirs are in a file beside the layer's
// directory ([Flavor.Records]).
//
// A file without a record belongs to whom the disk says, where the one who runs slipway stands for root.
//
// A process of a RUN can set such an attribute of its files. Where there is one ID its calls are supervised (package owners), and it can say
// there what chown may. Where there are many IDs a record counts only on a file that belongs to [recordOwner], to whom only slipway and who may call
// chown give files: when such a process gives the file to somebody else, that counts. In any case it is a claim: what has no meaning is no record, and
// none makes a whiteout.
//
// The names are also for who has to set such attributes, or to keep others from it.
const (
	RecordPrefix = "user.slipway."
	OwnerRecord  = RecordPrefix + "owner"
	HeldRecord   = RecordPrefix + "x."
)

// Record is what a disk cannot hold of a file.
type Record struct {
	Owner
	// Mode is the whole st_mode, or 0 when the disk has it.
	Mode         uint32
	Major, Minor uint32 // of a device
}

func (r Record) String() string {
	s := fmt.Sprintf("%d:%d", r.UID, r.GID)
	if r.Mode != 0 {
		s += fmt.Sprintf(":%o", r.Mode)
	}
	if r.device() {
		s += fmt.Sprintf(":%d:%d", r.Major, r.Minor)
	}
	return s
}

func (r Record) device() bool {
	t := r.Mode & unix.S_IFMT
	return t == unix.S_IFCHR || t == unix.S_IFBLK
}

// ParseRecord reads what [Record.String] gives.
func ParseRecord(s string) (r Record, ok bool) {
	parts := strings.Split(s, ":")
	if n := len(parts); n != 2 && n != 3 && n != 5 {
		return r, false
	}
	for i, to := range []*uint32{&r.UID, &r.GID, &r.Mode, &r.Major, &r.Minor}[:len(parts)] {
		base := 10
		if i == 2 {
			base = 8
		}
		v, err := strconv.ParseUint(parts[i], base, 32)
		if err != nil || v == 1<<32-1 { // no owner has that number
			return Record{}, false
		}
		*to = uint32(v)
	}
	if r.device() != (len(parts) == 5) || len(parts) > 2 && r.Mode == 0 || r.Mode&unix.S_IFMT == unix.S_IFCHR && r.Major == 0 && r.Minor == 0 {
		return Record{}, false
	}
	return r, true
}

// of makes e what the record of it says. An entry that cannot be what the record is of stays as it is.
func (r Record) of(e *Entry) {
	kind := r.Mode & unix.S_IFMT
	switch {
	case r.Mode == 0:
		e.UID, e.GID = r.UID, r.GID
	case kind == e.Type():
		e.UID, e.GID, e.Mode = r.UID, r.GID, r.Mode&(unix.S_IFMT|0o7777)
	case r.device() && e.IsRegular() && e.Size == 0:
		e.UID, e.GID, e.Mode = r.UID, r.GID, r.Mode&(unix.S_IFMT|0o7777)
		e.Major, e.Minor = r.Major, r.Minor
	}
}

// recordOwner is whom files with a record belong to where there are many IDs. Nobody gives it to users.
const recordOwner = 64957

// ids are those of the one who runs slipway as the disk has them.
type ids struct {
	uid, gid uint32
	overflow uint32 // what IDs look like that this process's user namespace does not have; 0 where it has all
	many     bool   // it can give files to others
}

// self is who runs slipway. It does not change while slipway runs.
var self = sync.OnceValue(readIDs)

func readIDs() ids {
	me := ids{uid: uint32(os.Geteuid()), gid: uint32(os.Getegid())}
	text, err := os.ReadFile("/proc/sys/kernel/overflowuid")
	over, perr := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32)
	if err != nil || perr != nil || over == 0 {
		over = 65534
	}
	maps, err := os.ReadFile("/proc/self/uid_map")
	if err == nil && !mapped(string(maps), over) {
		me.overflow = uint32(over)
	}
	me.many = me.uid == 0 && err == nil && mapped(string(maps), recordOwner)
	return me
}

// ManyIDs reports whether this process can give files to others: records count on files of [recordOwner] alone then.
func ManyIDs() bool { return self().many }

// counts reports whether a record of a file counts, by the owner that the disk has.
func (s ids) counts(e *Entry) bool { return !s.many || e.UID == recordOwner }

// mapped reports whether a map of a user namespace has an ID.
func mapped(maps string, id uint64) bool {
	for line := range strings.Lines(maps) {
		var first, outside, count uint64
		if n, _ := fmt.Sscan(line, &first, &outside, &count); n == 3 && id >= first && id-first < count {
			return true
		}
	}
	return false
}

// fromDisk makes the owner that the disk has of a file without a record the one that it stands for.
func (s ids) fromDisk(e *Entry) {
	if e.UID == s.uid {
		e.UID = 0
	}
	if e.GID == s.gid {
		e.GID = 0
	}
}

// ErrForeign marks files of layers that belong to users who are not there any more.
var ErrForeign = errors.New("it belongs to an ID that this user namespace does not have: the store was made with subordinate IDs " +
	"(/etc/subuid, newuidmap), and has to be used with them, or removed with \"slipway system reset\"")

// knows reports whether a file of a layer can have been made by somebody with these IDs.
func (s ids) knows(e *Entry) bool {
	if s.uid != 0 { // who cannot give files away
		return e.UID == s.uid
	}
	return s.overflow == 0 || e.UID != s.overflow && e.GID != s.overflow
}

// toDisk is the owner that the disk should have for one. held: it stands for it, and needs no record.
func (s ids) toDisk(o Owner) (disk Owner, held bool) {
	disk, held = o, true
	if s.uid != 0 {
		held = o.UID == 0
		disk.UID = s.uid
	}
	if s.gid != 0 {
		held = held && o.GID != s.gid
		if o.GID == 0 {
			disk.GID = s.gid
		}
	}
	return disk, held
}

// locked are the permissions that a file of the disk must have so that slipway can read and write it, as it can with capabilities.
func (s ids) locked(e *Entry, device bool) uint32 {
	switch {
	case s.uid == 0:
		return 0
	case e.IsDir():
		return 0o700
	case e.IsRegular() || device: // a file stands for it
		return 0o600
	}
	return 0
}

// sideRecord is a line of the file of records.
type sideRecord struct {
	Path   []byte            `json:"path"` // which need not be text
	Time   int64             `json:"time"` // of modification, in nanoseconds: another object at the path has another one
	Owner  string            `json:"owner"`
	Xattrs map[string][]byte `json:"xattrs,omitempty"`
}

// Records is where the records of a layer's directory are that cannot be its files' attributes; "" for a flavor that has none.
func (f Flavor) Records(dir string) string {
	if f == User {
		return strings.TrimSuffix(dir, "/") + ".owners"
	}
	return ""
}

// maxRecords bounds the file of records.
const maxRecords = 1 << 30

// readRecords reads the file of records at path, by the paths that they are of. A later one counts. What cannot be understood is the rest of
// a write that did not end.
func readRecords(path string) (map[string]sideRecord, error) {
	f, err := OpenRegular(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxRecords))
	if err != nil {
		return nil, err
	}
	all := map[string]sideRecord{}
	for line := range bytes.Lines(data) {
		var r sideRecord
		if json.Unmarshal(line, &r) == nil {
			all[string(r.Path)] = r
		}
	}
	return all, nil
}

// appendRecords adds records to the file at path.
func appendRecords(path string, all []sideRecord) error {
	var b bytes.Buffer
	for _, r := range all {
		line, err := json.Marshal(r)
		if err != nil {
			return err
		}
		b.Write(append(line, '\n'))
	}
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_APPEND|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	_, err = fdWriter(fd).Write(b.Bytes())
	return errors.Join(err, unix.Close(fd))
}

// apply makes e what its record says, if it is of e.
func (r sideRecord) apply(e *Entry) {
	if r.Time != e.ModTime.UnixNano() {
		return
	}
	if rec, ok := ParseRecord(r.Owner); ok {
		rec.of(e)
	}
	for k, v := range r.Xattrs {
		if keepXattr(k) {
			if e.Xattrs == nil {
				e.Xattrs = map[string]string{}
			}
			e.Xattrs[k] = string(v)
		}
	}
}

// recorded makes an entry what the record in its attributes says, or the one beside the directory.
func (t *dirTree) recorded(e *Entry, x *xattrs) error {
	if !self().counts(e) {
		return nil
	}
	gid := e.GID
	defer func() {
		if self().many && gid != recordOwner { // who gave it to another group says so by that alone
			e.GID = gid
		}
	}()
	if rec, ok := ParseRecord(x.record); ok {
		rec.of(e)
	}
	for k, v := range x.held {
		if e.Xattrs == nil {
			e.Xattrs = map[string]string{}
		}
		e.Xattrs[k] = v
	}
	if e.IsDir() || e.IsRegular() || t.beside == nil {
		return nil
	}
	beside, err := t.beside()
	if err != nil {
		return fmt.Errorf("reading recorded owners: %w", err)
	}
	if r, ok := beside[e.Path]; ok {
		r.apply(e)
	}
	return nil
}

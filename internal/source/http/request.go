// Package httpsource evaluates http:// and https:// sources: one file of a server's.
//
// # Structure
//
// [Parse] reads an operation. [Source.Resolve] finds out which file the URL names now, and has it in
// the store when it returns; a file that the store holds is only asked for again when the server has
// another one. [Source.Fetch] gives the file that a checksum or an earlier Resolve named.
//
// # Caveats
//
// The rules (names, modes, headers, secrets, what is part of the identity) are those of BuildKit's
// source/http. A server is asked for a file once per build, and its answers are remembered by URL
// and headers, never by an answer's own words.
package httpsource

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/pgpsign"
	"github.com/moby/buildkit/util/urlutil"
	"github.com/opencontainers/go-digest"
)

// Request is what an http source asks for.
type Request struct {
	URL      string
	Checksum digest.Digest // "": whatever the server has
	Filename string        // "": from the answer, or the URL
	Perm     uint32        // 0 is 0600
	UID, GID int
	// AuthHeaderSecret is the secret whose value is the Authorization header.
	AuthHeaderSecret string
	Header           []Field // sorted by name
	Signature        Signature
}

// Field is one header field of a request.
type Field struct{ Name, Value string }

// Signature is the one that the file must have, of OpenPGP, by one of the keys; both are armored.
type Signature struct{ Armored, Keys string }

// Wanted reports whether there must be one.
func (s Signature) Wanted() bool { return s != Signature{} }

// Verify reads a file and compares it with its signature, in BuildKit's words.
func (s Signature) Verify(file io.Reader) error {
	if err := pgpsign.VerifyArmoredDetachedSignature(file, []byte(s.Armored), []byte(s.Keys), nil); err != nil {
		return fmt.Errorf("failed to verify pgp signature: %w", err)
	}
	return nil
}

// userHeaders are the header fields that an operation may set; others are dropped, as in BuildKit.
var userHeaders = map[string]bool{"Accept": true, "User-Agent": true}

// Parse reads an operation.
func Parse(op *pb.SourceOp) (*Request, error) {
	r := &Request{URL: op.Identifier}
	for k, v := range op.Attrs {
		if err := r.set(k, v); err != nil {
			return nil, fmt.Errorf("reading attribute %s of %s: %w", k, r, err)
		}
	}
	if (r.Signature.Armored == "") != (r.Signature.Keys == "") {
		return nil, errors.New("http signature verification requires both pubkey and signature")
	}
	slices.SortFunc(r.Header, func(a, b Field) int { return cmp.Compare(a.Name, b.Name) })
	return r, nil
}

func (r *Request) set(key, value string) (err error) {
	switch key {
	case pb.AttrHTTPChecksum:
		r.Checksum, err = digest.Parse(value)
		if err == nil && r.Checksum.Algorithm() != digest.SHA256 {
			err = fmt.Errorf("checksum algorithm %s is not supported: use sha256", r.Checksum.Algorithm())
		}
	case pb.AttrHTTPFilename:
		r.Filename = value
	case pb.AttrHTTPPerm:
		var n uint64
		n, err = strconv.ParseUint(value, 0, 12)
		r.Perm = uint32(n)
	case pb.AttrHTTPUID:
		r.UID, err = parseID(value)
	case pb.AttrHTTPGID:
		r.GID, err = parseID(value)
	case pb.AttrHTTPAuthHeaderSecret:
		r.AuthHeaderSecret = value
	case pb.AttrHTTPSignatureVerify:
		r.Signature.Armored = value
	case pb.AttrHTTPSignatureVerifyPubKey:
		r.Signature.Keys = value
	default:
		if name, ok := strings.CutPrefix(key, pb.AttrHTTPHeaderPrefix); ok {
			if name = http.CanonicalHeaderKey(name); userHeaders[name] {
				r.Header = append(r.Header, Field{name, value})
			}
		}
	}
	return err
}

func parseID(v string) (int, error) {
	n, err := strconv.ParseUint(v, 0, 32)
	return int(n), err
}

// String is the URL without credentials.
func (r *Request) String() string { return urlutil.RedactCredentials(r.URL) }

// place identifies what is asked for, whatever the answer is: the server's answers are remembered
// under it.
func (r *Request) place() string {
	data, err := json.Marshal(struct {
		URL, Secret string
		Header      []Field
	}{r.URL, r.AuthHeaderSecret, r.Header})
	if err != nil {
		panic(err) // strings can be written
	}
	return "http " + digest.FromBytes(data).Encoded()
}

// Mode is the file's permissions.
func (r *Request) Mode() uint32 {
	if r.Perm == 0 {
		return 0o600
	}
	return r.Perm
}

// Name is the name of the file as far as it is known without an answer.
func (r *Request) Name() string { return r.name("") }

// Key identifies a request among others: equal ones have the same file.
func (r *Request) Key() string { return fmt.Sprintf("%s %s %q", r.place(), r.Checksum, r.Filename) }

// name is the name of the file: that of the operation, the one of the answer's Content-Disposition,
// or the last part of the URL's path.
func (r *Request) name(disposition string) string {
	if r.Filename != "" {
		return safeName(r.Filename)
	}
	if _, params, err := mime.ParseMediaType(disposition); err == nil {
		if f := params["filename"]; f != "" && !strings.HasSuffix(f, "/") {
			return safeName(f)
		}
	}
	if u, err := url.Parse(r.URL); err == nil {
		if base := path.Base(u.Path); base != "." && base != "/" {
			return safeName(base)
		}
	}
	return safeName("")
}

// safeName makes any string a name in one directory. The rule is that of BuildKit's
// source/util/pathutil.
func safeName(s string) string {
	const fallback = "download"
	name := filepath.Base(strings.TrimSpace(s))
	if name == "." || name == ".." || name == "/" || bytes.ContainsFunc([]byte(name), unicode.IsControl) {
		return fallback
	}
	return name
}

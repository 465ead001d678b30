// Package buckettest is an S3 server on loopback: gofakes3, and in front of it who looks at the signatures, which
// gofakes3 does not.
package buckettest

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"github.com/slipway-build/slipway/internal/outbound/outboundtest"
)

// ID, Secret and Session are the keys that the server knows.
const (
	ID      = "keyid"
	Secret  = "wJalrsecretQ7k"
	Session = "sessionQ7secret"
)

// Server is the server. Its fields are set before it is spoken to.
type Server struct {
	URL string
	// Break cuts the bodies of that many reads off in their middle. Refuse answers that many requests with 503.
	Break, Refuse int
	// Answer may answer a request in the server's place, and reports whether it has.
	Answer func(w http.ResponseWriter, r *http.Request) bool

	http    *httptest.Server
	objects *s3mem.Backend
	next    http.Handler

	// Notes are the requests, "PUT /bucket/key", and those whose signature was wrong.
	outboundtest.Notes

	mu sync.Mutex
}

// New starts a server with a bucket.
func New(bucket string) (*Server, error) {
	s := &Server{objects: s3mem.New()}
	if err := s.objects.CreateBucket(bucket); err != nil {
		return nil, err
	}
	s.next = gofakes3.New(s.objects, gofakes3.WithoutVersioning()).Server()
	s.http = httptest.NewServer(http.HandlerFunc(s.serve))
	s.URL = s.http.URL
	return s, nil
}

// Close ends it.
func (s *Server) Close() { s.http.Close() }

// Get returns an object; nil for none.
func (s *Server) Get(bucket, key string) []byte {
	o, err := s.objects.GetObject(bucket, key, nil)
	if err != nil {
		return nil
	}
	defer o.Contents.Close()
	data, _ := io.ReadAll(o.Contents)
	return data
}

// Keys lists the objects whose keys begin so.
func (s *Server) Keys(bucket, prefix string) []string {
	p := gofakes3.Prefix{HasPrefix: prefix != "", Prefix: prefix}
	list, err := s.objects.ListBucket(bucket, &p, gofakes3.ListBucketPage{})
	if err != nil {
		return nil
	}
	var all []string
	for _, o := range list.Contents {
		all = append(all, o.Key)
	}
	return all
}

// Delete removes an object.
func (s *Server) Delete(bucket, key string) {
	s.objects.DeleteObject(bucket, key) //nolint:errcheck // then it is not there
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	s.Ask(r.Method + " " + r.URL.Path)
	if s.Answer != nil && s.Answer(w, r) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Refuse > 0 {
		s.Refuse--
		refuse(w, http.StatusServiceUnavailable, "SlowDown", "not so fast")
		return
	}
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = verify(r, body)
	}
	if err != nil {
		s.Problem(err.Error())
		refuse(w, http.StatusForbidden, "SignatureDoesNotMatch", err.Error())
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	if s.Break > 0 && r.Method == http.MethodGet {
		s.Break--
		w = outboundtest.Broken{ResponseWriter: w}
	}
	s.next.ServeHTTP(w, r)
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<?xml version=\"1.0\"?><Error><Code>%s</Code><Message>%s</Message></Error>", code, message)
}

// verify checks a request's signature, of version 4, and that its body is what was signed.
func verify(r *http.Request, body []byte) error {
	fields := map[string]string{}
	scheme, rest, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	for _, f := range strings.Split(rest, ",") {
		k, v, _ := strings.Cut(strings.TrimSpace(f), "=")
		fields[k] = v
	}
	scope := strings.Split(fields["Credential"], "/")
	if scheme != "AWS4-HMAC-SHA256" || len(scope) != 5 || scope[0] != ID {
		return fmt.Errorf("%s %s: it is not signed by %s", r.Method, r.URL.Path, ID)
	}
	if token := r.Header.Get("X-Amz-Security-Token"); token != "" && token != Session {
		return fmt.Errorf("%s %s: the session is another one", r.Method, r.URL.Path)
	}
	hash := r.Header.Get("X-Amz-Content-Sha256")
	if got := hexSum(body); hash != got && hash != "UNSIGNED-PAYLOAD" {
		return fmt.Errorf("%s %s: the content is %s, signed was %s", r.Method, r.URL.Path, got, hash)
	}
	var headers strings.Builder
	for _, name := range strings.Split(fields["SignedHeaders"], ";") {
		value := strings.Join(r.Header.Values(name), ",")
		switch name {
		case "host":
			value = r.Host
		case "content-length":
			value = fmt.Sprint(r.ContentLength)
		}
		headers.WriteString(name + ":" + strings.Join(strings.Fields(value), " ") + "\n")
	}
	canonical := strings.Join([]string{r.Method, r.URL.EscapedPath(), sorted(r.URL.Query()), headers.String(), fields["SignedHeaders"], hash}, "\n")
	date := r.Header.Get("X-Amz-Date")
	text := strings.Join([]string{"AWS4-HMAC-SHA256", date, strings.Join(scope[1:], "/"), hexSum([]byte(canonical))}, "\n")
	key := []byte("AWS4" + Secret)
	for _, part := range scope[1:] {
		key = mac(key, part)
	}
	if want := hex.EncodeToString(mac(key, text)); want != fields["Signature"] {
		return fmt.Errorf("%s %s: the signature is another one, of %q", r.Method, r.URL.Path, canonical)
	}
	return nil
}

func sorted(q url.Values) string { return strings.ReplaceAll(q.Encode(), "+", "%20") }

func hexSum(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

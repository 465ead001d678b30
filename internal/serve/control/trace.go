package control

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
)

// typeTrace is BuildKit's form of a trace: OpenTelemetry's spans as JSON, one after the other.
const typeTrace = "application/vnd.buildkit.otlp.json.v0"

// span is one of a trace, with what its readers want of one.
type span struct {
	Name               string
	SpanContext        spanContext
	Parent             spanContext
	SpanKind           int
	StartTime, EndTime time.Time
	Attributes         []attribute
	Events, Links      []attribute
	Status             struct{ Code, Description string }
	Resource           []attribute
}

type spanContext struct {
	TraceID, SpanID, TraceFlags, TraceState string
	Remote                                  bool
}

type attribute struct {
	Key   string
	Value struct {
		Type  string
		Value any
	}
}

func textAttribute(key, value string) attribute {
	a := attribute{Key: key}
	a.Value.Type, a.Value.Value = "STRING", value
	return a
}

// traceOf makes a trace of the steps of a build: when each began and ended.
func traceOf(rec *controlapi.BuildHistoryRecord, steps map[string]*client.Vertex) ([]byte, error) {
	sum := sha256.Sum256([]byte(rec.Ref + rec.CreatedAt.String()))
	context := func(name string) spanContext {
		id := sha256.Sum256([]byte(name))
		return spanContext{TraceID: hex.EncodeToString(sum[:16]), SpanID: hex.EncodeToString(id[:8]), TraceFlags: "01"}
	}
	service := []attribute{textAttribute("service.name", "slipway")}
	root := span{
		Name: "build", SpanContext: context(""), Parent: spanContext{TraceID: strings.Repeat("0", 32), SpanID: strings.Repeat("0", 16), TraceFlags: "00"}, SpanKind: 1,
		StartTime: rec.CreatedAt.AsTime(), EndTime: rec.CompletedAt.AsTime(), Attributes: []attribute{textAttribute("ref", rec.Ref), textAttribute("frontend", rec.Frontend)}, Resource: service,
	}
	root.Status.Code = "Unset"
	if rec.Error != nil {
		root.Status.Code, root.Status.Description = "Error", rec.Error.Message
	}
	all := []span{root}
	for _, v := range slices.SortedFunc(maps.Values(steps), func(a, b *client.Vertex) int {
		return cmp.Or(a.Started.Compare(*b.Started), strings.Compare(a.Digest.String(), b.Digest.String()))
	}) {
		s := span{
			Name: v.Name, SpanContext: context(v.Digest.String()), Parent: root.SpanContext, SpanKind: 1, StartTime: v.Started.UTC(), EndTime: root.EndTime,
			Attributes: []attribute{textAttribute("vertex", v.Digest.String())}, Resource: service,
		}
		if v.Completed != nil {
			s.EndTime = v.Completed.UTC()
		}
		if v.Cached {
			s.Attributes = append(s.Attributes, textAttribute("cached", "true"))
		}
		if s.Status.Code = "Unset"; v.Error != "" {
			s.Status.Code, s.Status.Description = "Error", v.Error
		}
		all = append(all, s)
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	for i := range all {
		if err := enc.Encode(&all[i]); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), nil
}

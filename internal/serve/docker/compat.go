package docker

import (
	"bytes"
	"encoding/json"
)

// fields are those that documents of older versions have beside others; a value that is fields is of a document in it.
type fields map[string]any

// compat is a document with fields that are added where it has none of the name, or null there, as dockerd adds them.
type compat struct {
	document any
	more     fields
}

// MarshalJSON implements json.Marshaler.
func (c compat) MarshalJSON() ([]byte, error) {
	data, err := json.Marshal(c.document)
	if err != nil || len(c.more) == 0 {
		return data, err
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	var all map[string]any
	if err := decoder.Decode(&all); err != nil {
		return nil, err
	}
	c.more.addTo(all)
	return json.Marshal(all)
}

// addTo adds the fields to a document.
func (f fields) addTo(document map[string]any) {
	for name, value := range f {
		if inner, ok := value.(fields); ok {
			if there, ok := document[name].(map[string]any); ok {
				inner.addTo(there)
				continue
			}
		}
		if document[name] == nil {
			document[name] = value
		}
	}
}

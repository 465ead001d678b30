package conformance

import (
	"bytes"
	"encoding/json"
	"os"
)

// WriteRecords keeps the records of a case, by Dockerfile.
func WriteRecords(file string, records map[string]*Record) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(records); err != nil {
		return err
	}
	return os.WriteFile(file, b.Bytes(), 0o644)
}

// ReadRecords reads what WriteRecords wrote.
func ReadRecords(file string) (map[string]*Record, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var records map[string]*Record
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	return records, d.Decode(&records)
}

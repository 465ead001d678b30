package config

import (
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

// shipped is the file that the packages install.
const shipped = "../../contrib/slipway.toml"

// TestShipped reads it as it is, which says nothing, and with every key, of which there are all.
func TestShipped(t *testing.T) {
	data, err := os.ReadFile(shipped)
	if err != nil {
		t.Fatal(err)
	}
	warn := func(text string) { t.Error(text) }
	s, err := parse(shipped, data, warn)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(s, &Settings{}) {
		t.Errorf("as it is, it sets something: %+v", s)
	}
	keys := regexp.MustCompile(`(?m)^#([a-zA-Z-]+ = |\[)`).ReplaceAll(data, []byte("$1"))
	if s, err = parse(shipped, keys, warn); err != nil {
		t.Fatal(err)
	}
	rules := reflect.ValueOf(Rule{})
	for _, name := range missing(reflect.ValueOf(*s), "") {
		t.Errorf("it has no %s", name)
	}
	for i := range rules.NumField() {
		if key := rules.Type().Field(i).Tag.Get("toml"); !strings.Contains(string(keys), "\n"+key+" = ") {
			t.Errorf("no policy has %s", key)
		}
	}
}

// missing names the keys that are not set.
func missing(v reflect.Value, prefix string) (all []string) {
	if v.Kind() == reflect.Pointer && !v.IsNil() {
		v = v.Elem()
	}
	for i := range v.NumField() {
		f, tag := v.Field(i), v.Type().Field(i).Tag.Get("toml")
		inner := f.Kind() == reflect.Struct || f.Kind() == reflect.Pointer && f.Type().Elem().Kind() == reflect.Struct && f.Type().Elem() != reflect.TypeFor[Duration]()
		switch {
		case !inner && f.IsZero(), f.Kind() == reflect.Pointer && f.IsNil():
			all = append(all, prefix+tag)
		case inner && tag == "":
			all = append(all, missing(f, prefix)...)
		case inner:
			all = append(all, missing(f, prefix+tag+".")...)
		}
	}
	return all
}

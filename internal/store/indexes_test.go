package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// What is asked for whenever a store is opened, an image named, or something found by a name or an ID takes no longer
// in a store with much in it: no query reads a whole table.
func TestQueriesThatUseIndexes(t *testing.T) {
	s := newStore(t)
	queries := []string{
		anyUnsynced,
		"DELETE FROM results WHERE " + unsynced,
		"SELECT count(*) FROM images WHERE " + imageID + "=?1",
		"SELECT record FROM images WHERE " + imageID + " BETWEEN ?1 AND ?1 ORDER BY name",
		"SELECT record FROM images WHERE " + imageTarget + " BETWEEN ?1 AND ?1 ORDER BY name",
		"SELECT record FROM images WHERE name BETWEEN ?1 AND ?1 ORDER BY name",
		"SELECT record FROM containers WHERE name=?1 OR id=?1 ORDER BY name",
		"SELECT record FROM containers WHERE id BETWEEN ?1 AND ?1 ORDER BY name",
	}
	for _, of := range toSync {
		queries = append(queries, "SELECT "+of.key+" FROM "+of.table+" WHERE boot!=''"+of.where, "UPDATE "+of.table+" SET boot='' WHERE "+of.key+"=?1"+of.where)
	}
	for _, q := range queries {
		var args []any
		if strings.Contains(q, "?1") {
			args = append(args, "x")
		}
		rows, err := s.db.Query("EXPLAIN QUERY PLAN "+q, args...)
		must(t, err)
		defer rows.Close()
		for rows.Next() {
			var id, parent, unused int
			var detail string
			must(t, rows.Scan(&id, &parent, &unused, &detail))
			// The indexes of boot have only what is not synced: all of them may be read.
			if strings.HasPrefix(detail, "SCAN") && detail != "SCAN CONSTANT ROW" && !strings.HasSuffix(detail, "_boot") {
				t.Errorf("%s\nis answered by %s", q, detail)
			}
		}
		must(t, rows.Err())
	}
}

// An image is found by each of its digests, and one whose record is damaged keeps no other from being found.
func TestImageIsFound(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	sum := func(text string) digest.Digest { return digest.FromString(text) }
	for i := range 3 {
		img := Image{Name: fmt.Sprintf("docker.io/library/app%d:v", i), ID: sum(fmt.Sprint("id", i)), Manifest: ocispec.Descriptor{Digest: sum(fmt.Sprint("manifest", i))}}
		if i == 1 {
			img.Index, img.Source = &ocispec.Descriptor{Digest: sum("index")}, sum("source")
		}
		must(t, s.SetImages(ctx, img))
	}
	pinned := ocispec.Descriptor{Digest: sum("index of pinned")}
	must(t, s.SetImages(ctx, Image{Name: "docker.io/library/pinned@" + pinned.Digest.String(), ID: sum("id of pinned"), Index: &pinned,
		Manifest: ocispec.Descriptor{Digest: sum("manifest of pinned")}}))
	_, err := s.db.Exec("INSERT INTO images(name,record,tagged) VALUES('docker.io/library/bad:v','{',0)")
	must(t, err)
	if img, err := s.Image(ctx, "pinned@"+sum("manifest of pinned").String()); err != nil || img.ID != sum("id of pinned") {
		t.Errorf("what is named by one digest is %s, %v, by another one", img.Name, err)
	}
	for ref, want := range map[string]string{
		"app1":                              "",
		"app1:v":                            "app1",
		sum("id2").Encoded():                "app2",
		sum("id2").Encoded()[:12]:           "app2",
		sum("id2").String()[:20]:            "app2",
		sum("manifest0").Encoded()[:9]:      "app0",
		sum("manifest1").Encoded():          "", // the name stands for the index
		sum("index").String():               "app1",
		"app1@" + sum("index").String():     "app1",
		"app1@" + sum("manifest1").String(): "app1",
		"docker.io/library/app1:x@" + sum("source").String(): "app1",
		"app0@" + sum("source").String():                     "",
		"app@" + sum("source").String():                      "",
		sum("nothing").Encoded():                             "",
		"":                                                   "",
		"'":                                                  "",
	} {
		img, err := s.Image(ctx, ref)
		if want == "" {
			if !errors.Is(err, ErrNotFound) {
				t.Errorf("%q is %s, %v", ref, img.Name, err)
			}
		} else if err != nil || img.Name != "docker.io/library/"+want+":v" {
			t.Errorf("%q is %s, %v, want %s", ref, img.Name, err, want)
		}
	}
}

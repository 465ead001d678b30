package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
)

// ImageUsage is how much of the disk an image takes, in all the forms in which its layers are here.
type ImageUsage struct {
	Image
	Disk       int64
	Shared     int64 // of Disk, what other images need as well
	Containers int   // made from it
}

// Usage is how much of the disk images take. What several share is counted once.
type Usage struct {
	Images      []ImageUsage // one for each ID, the newest first
	Disk        int64
	Reclaimable int64 // of Disk, what no container, no image of one and no other process needs
}

// ImageUsage finds out how much of the disk images take. Others may change the store meanwhile: what is gone by
// then counts nothing. Directories that nobody has measured are walked.
func (s *Store) ImageUsage(ctx context.Context) (u Usage, err error) {
	var lines [][]string
	if u.Images, lines, err = s.imageLines(ctx); err != nil {
		return u, fmt.Errorf("finding the space of images: %w", err)
	}
	containers, err := s.Containers(ctx)
	if err != nil {
		return u, err
	}
	made, active := map[digest.Digest]int{}, map[string]bool{}
	for _, c := range containers {
		made[c.ImageID]++
		for _, id := range c.layers() {
			active[layerLine(id)] = true
		}
	}
	users := map[string]int{}
	for i := range u.Images {
		u.Images[i].Containers = made[u.Images[i].ID]
		for _, line := range lines[i] {
			users[line]++
			active[line] = active[line] || u.Images[i].Containers > 0
		}
	}
	var all []string
	for line := range users {
		all = append(all, line)
	}
	bytes, err := s.lineSizes(ctx, all)
	if err != nil {
		return u, fmt.Errorf("finding the space of images: %w", err)
	}
	others, err := s.readOthers(manner{})
	if err != nil {
		return u, err
	}
	for line, n := range bytes {
		u.Disk += n
		if !active[line] && !others.use(line) {
			u.Reclaimable += n
		}
	}
	for i := range u.Images {
		for _, line := range lines[i] {
			u.Images[i].Disk += bytes[line]
			if users[line] > 1 {
				u.Images[i].Shared += bytes[line]
			}
		}
	}
	return u, nil
}

// imageLines returns each image once, by the first of its names, with what it consists of.
func (s *Store) imageLines(ctx context.Context) (images []ImageUsage, lines [][]string, err error) {
	all, err := s.Images(ctx)
	if err != nil {
		return nil, nil, err
	}
	slices.SortStableFunc(all, func(a, b Image) int { return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.Name, b.Name)) })
	forms, err := s.layerForms(ctx)
	if err != nil {
		return nil, nil, err
	}
	at := map[digest.Digest]int{}
	var needs []*reach
	for _, img := range all {
		i, known := at[img.ID]
		if !known {
			i = len(images)
			at[img.ID] = i
			images, needs = append(images, ImageUsage{Image: img}), append(needs, s.newReach())
		}
		if err := needs[i].addImage(ctx, img); err != nil {
			return nil, nil, err
		}
	}
	for _, need := range needs {
		need.closeOver(forms)
		lines = append(lines, need.lines())
	}
	return images, lines, nil
}

// lines are what a reach has.
func (r *reach) lines() (all []string) {
	for id := range r.layers {
		all = append(all, layerLine(id))
	}
	for d := range r.blobs {
		all = append(all, blobLine(d))
	}
	return all
}

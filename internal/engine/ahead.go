package engine

import "context"

// askAhead is told of a result that nobody has. What the node stands on is needed now, and most likely what that stands on: imported caches are asked for
// as many results ahead as nobody had so far, the next ones first. So of n results that nobody has the last one is known of after as many
// answers in a row as n has binary digits, and for each that was asked for one at most was asked for in vain.
func (r *Run) askAhead(ctx context.Context, n *node, id identity) error {
	caches := r.believes.Load().foreign
	if len(caches) == 0 {
		return nil
	}
	r.elsewhere.mu.Lock()
	if r.elsewhere.asked == nil {
		r.elsewhere.asked = map[Key]bool{}
	}
	r.elsewhere.missed++
	r.elsewhere.asked[id.key] = true
	more := 2*r.elsewhere.missed + 1 - len(r.elsewhere.asked)
	r.elsewhere.mu.Unlock()
	keys, err := r.nextBelow(ctx, n, more)
	if err != nil || len(keys) == 0 {
		return err
	}
	for _, c := range caches {
		c.Ahead(keys)
	}
	return nil
}

// nextBelow are the keys of up to some nodes below one, nearest first, that the store does not have, nobody was asked for, and that are known by now.
func (r *Run) nextBelow(ctx context.Context, n *node, most int) (keys []string, err error) {
	seen, all := map[*node]bool{n: true}, []*node{n}
	for len(all) > 0 && len(keys) < most {
		n, all = all[0], all[1:]
		for _, in := range n.inputs {
			if in.n == nil || in.n.run != r || seen[in.n] || in.n.isSource() {
				continue
			}
			seen[in.n] = true
			id, ok := in.n.key.peek()
			if !ok || id.fresh {
				continue
			}
			if here, err := r.hasResult(ctx, id.key); err != nil {
				return nil, err
			} else if here {
				continue
			}
			all = append(all, in.n)
			r.elsewhere.mu.Lock()
			asked := r.elsewhere.asked[id.key]
			r.elsewhere.asked[id.key] = true
			r.elsewhere.mu.Unlock()
			if !asked {
				keys = append(keys, string(id.key))
			}
		}
	}
	return keys, nil
}

// hasResult reports whether the store has a result that the run may use.
func (r *Run) hasResult(ctx context.Context, key Key) (bool, error) {
	_, found, _, err := r.recall(ctx, key)
	return found, err
}

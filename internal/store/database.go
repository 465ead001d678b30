package store

import (
	"context"
	"database/sql"
	"sync"
)

// database keeps what SQLite has made of the text of a query for the next time: to find a record
// takes less than to understand the question.
type database struct {
	*sql.DB
	prepared sync.Map // text -> *sql.Stmt, closed with the database
	// asking has a place for each question that is asked at the same time. Whoever looks at hundreds of
	// layers at once would otherwise open a connection for each, and close most of them again.
	asking chan struct{}
}

// row is the answer to a question, which ends with Scan.
type row struct {
	*sql.Row
	asking chan struct{}
}

// Scan is [sql.Row.Scan]. It is to be called once.
func (r row) Scan(dest ...any) error {
	defer func() { <-r.asking }()
	return r.Row.Scan(dest...)
}

// QueryRowContext asks for one row. Values belong in args, not in the text.
func (d *database) QueryRowContext(ctx context.Context, query string, args ...any) row {
	d.asking <- struct{}{}
	return row{d.queryRow(ctx, query, args...), d.asking}
}

func (d *database) queryRow(ctx context.Context, query string, args ...any) *sql.Row {
	kept, ok := d.prepared.Load(query)
	if !ok {
		stmt, err := d.PrepareContext(ctx, query)
		if err != nil {
			return d.DB.QueryRowContext(ctx, query, args...) // gives the error
		}
		if kept, ok = d.prepared.LoadOrStore(query, stmt); ok {
			_ = stmt.Close() // another goroutine was quicker
		}
	}
	return kept.(*sql.Stmt).QueryRowContext(ctx, args...)
}

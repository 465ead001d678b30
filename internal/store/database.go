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
}

// QueryRowContext asks for one row. Values belong in args, not in the text.
func (d *database) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
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

package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
	"modernc.org/sqlite"
)

// database keeps what SQLite has made of the text of a query for the next time: to find a record
// takes less than to understand the question.
type database struct {
	*sql.DB
	prepared sync.Map // text -> *sql.Stmt, closed with the database
	// asking has a place for the question that is asked. Two that are asked at the same time would take two connections, and to open one
	// takes longer than dozens of questions, as does to understand each of them on the other one as well.
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

// maxIdle is how many connections to the database are kept for the next who asks. To open one is to read
// the schema, which takes longer than all queries of a step.
const maxIdle = 8

// openDatabase opens the database at a path. All its errors are sentences of [Store.say].
func (s *Store) openDatabase(path string) *database {
	dsn := "file:" + strings.NewReplacer("?", "%3f", "#", "%23", "%", "%25").Replace(path) +
		fmt.Sprintf("?_txlock=immediate&_pragma=busy_timeout(%d)&_pragma=synchronous(normal)", patience.Milliseconds())
	db := sql.OpenDB(&connector{dsn, s.say})
	db.SetMaxIdleConns(maxIdle)
	return &database{DB: db, asking: make(chan struct{}, 1)}
}

// QueryRowContext asks for one row, which has to be found by a key: others wait for it. Values belong in args, not in the text.
func (d *database) QueryRowContext(ctx context.Context, query string, args ...any) row {
	d.asking <- struct{}{}
	stmt, err := d.statement(ctx, query)
	if err != nil {
		return row{d.DB.QueryRowContext(ctx, query, args...), d.asking} // gives the error
	}
	return row{stmt.QueryRowContext(unwatched(ctx), args...), d.asking}
}

// QueryOften asks for rows as QueryContext does, by a text that is asked again.
func (d *database) QueryOften(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	stmt, err := d.statement(ctx, query)
	if err != nil {
		return nil, err
	}
	return stmt.QueryContext(unwatched(ctx), args...)
}

// statement is what SQLite has made of a text.
func (d *database) statement(ctx context.Context, query string) (*sql.Stmt, error) {
	kept, ok := d.prepared.Load(query)
	if !ok {
		stmt, err := d.PrepareContext(ctx, query)
		if err != nil {
			return nil, err
		}
		if kept, ok = d.prepared.LoadOrStore(query, stmt); ok {
			_ = stmt.Close() // another goroutine was quicker
		}
	}
	return kept.(*sql.Stmt), nil
}

// unwatched is a context for a question that has an answer at once. Two goroutines would wait for the end of one that can end, and
// take longer than the answer.
func unwatched(ctx context.Context) context.Context {
	if ctx.Err() != nil {
		return ctx
	}
	return context.WithoutCancel(ctx)
}

// The codes of SQLite's errors that users may meet (sqlite.org/rescode.html).
const (
	codeBusy, codeLocked, codeProtocol = 5, 6, 15
	codeReadOnly, codeFailed           = 8, 10
	codeDamaged, codeNoDatabase        = 11, 26
	codeFull, codeCannotOpen           = 13, 14
)

// databaseError is what went wrong with the database, in words that tell what it means for the store.
type databaseError struct {
	text   string
	causes []error // SQLite's error, and the kernel's where it is known
}

func (e *databaseError) Error() string   { return e.text }
func (e *databaseError) Unwrap() []error { return e.causes }

// codeAtEnd is how the driver ends its messages.
var codeAtEnd = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`( \(\d+\))+$`) })

// say makes a sentence of an error of SQLite. What SQLite says of files is the number of an operation that
// failed: why it did is found out by trying to write a file beside them.
func (s *Store) say(err error) error {
	path := filepath.Join(s.root, "meta.db")
	damaged := path + " is damaged: use another --root, or remove the store"
	if err == errNull {
		return &databaseError{text: damaged, causes: []error{err}}
	}
	var failed *sqlite.Error
	if err == nil || err == io.EOF || !errors.As(err, &failed) {
		return err
	}
	e := &databaseError{text: "using " + path + ": " + codeAtEnd().ReplaceAllString(failed.Error(), ""), causes: []error{failed}}
	var why error
	switch failed.Code() & 0xff {
	case codeBusy, codeLocked, codeProtocol:
		e.text = fmt.Sprintf("another process has locked %s for %s: try again when it has ended", path, patience)
	case codeDamaged, codeNoDatabase:
		e.text = damaged
	case codeFull:
		why = unix.ENOSPC
	case codeReadOnly, codeFailed, codeCannotOpen:
		if why = s.tryWrite(); why == nil {
			e.text = path + " cannot be read or written: see whether its disk has errors, and whether the file is this user's"
		}
	}
	if why != nil {
		e.text, e.causes = "writing to "+path+": "+why.Error(), append(e.causes, why)
	}
	if IsFull(why) {
		e.text = "no space left on " + s.root
	}
	return e
}

// connector opens connections whose errors are sentences.
type connector struct {
	dsn string
	say func(error) error
}

func (c *connector) Driver() driver.Driver { return &sqlite.Driver{} }

func (c *connector) Connect(context.Context) (driver.Conn, error) {
	opened, err := c.Driver().Open(c.dsn)
	if err != nil {
		return nil, c.say(err)
	}
	return conn{opened.(sqliteConn), c.say}, nil
}

// sqliteConn is what package sql uses of a connection of SQLite's.
type sqliteConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.SessionResetter
	driver.Validator
}

type conn struct {
	sqliteConn
	say func(error) error
}

func (c conn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	t, err := c.sqliteConn.BeginTx(ctx, opts)
	if err != nil {
		return nil, c.say(err)
	}
	return transaction{t, c.say}, nil
}

func (c conn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	s, err := c.sqliteConn.PrepareContext(ctx, query)
	if err != nil {
		return nil, c.say(err)
	}
	return stmt{s.(sqliteStmt), c.say}, nil
}

func (c conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	r, err := c.sqliteConn.ExecContext(ctx, query, args)
	return r, c.say(err)
}

func (c conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	r, err := c.sqliteConn.QueryContext(ctx, query, args)
	return answer(r, err, c.say)
}

type transaction struct {
	driver.Tx
	say func(error) error
}

func (t transaction) Commit() error { return t.say(t.Tx.Commit()) }

type sqliteStmt interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

type stmt struct {
	sqliteStmt
	say func(error) error
}

func (s stmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	r, err := s.sqliteStmt.ExecContext(ctx, args)
	return r, s.say(err)
}

func (s stmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	r, err := s.sqliteStmt.QueryContext(ctx, args)
	return answer(r, err, s.say)
}

type rows struct {
	driver.Rows
	say func(error) error
}

func answer(r driver.Rows, err error, say func(error) error) (driver.Rows, error) {
	if err != nil {
		return nil, say(err)
	}
	return rows{r, say}, nil
}

// errNull is a value that no record has: no column may be NULL, as SQLite sees when it writes.
var errNull = errors.New("a record has no value")

func (r rows) Next(dest []driver.Value) error {
	err := r.Rows.Next(dest)
	if err == nil && slices.Contains(dest, nil) {
		err = errNull
	}
	return r.say(err)
}

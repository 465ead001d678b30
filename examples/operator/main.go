// Command manager is a small operator: it reconciles declared audit policies with those that
// it has applied, again and again, and tells how it is over HTTP.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"example.org/audit-operator/controllers"
)

func main() {
	policies := flag.String("policies", "/etc/manager/policies.yaml", "file of declared policies")
	state := flag.String("ledger", "/var/lib/manager/ledger.json", "file of applied policies")
	listen := flag.String("listen", ":8080", "address of /healthz and /status")
	interval := flag.Duration("interval", 10*time.Second, "time between rounds")
	once := flag.Bool("once", false, "reconcile once, print what was done, and exit")
	flag.Parse()

	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	c := &controllers.Policies{File: *policies, Ledger: *state, Log: log}
	var err error
	if *once {
		err = reconcileOnce(c)
	} else {
		err = serve(c, *listen, *interval)
	}
	if err != nil {
		log.Error("manager stops", "error", err)
		os.Exit(1)
	}
}

func reconcileOnce(c *controllers.Policies) error {
	actions, err := c.Reconcile()
	if err != nil {
		return err
	}
	fmt.Printf("reconciled as uid %d: %d actions\n", os.Getuid(), len(actions))
	for _, a := range actions {
		fmt.Printf("  %-6s %s\n", a.Kind, a.Policy)
	}
	return nil
}

func serve(c *controllers.Policies, listen string, interval time.Duration) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	server := &http.Server{Addr: listen, Handler: c, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		c.Run(ctx, interval)
		server.Close()
	}()
	c.Log.Info("serving", "address", listen)
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

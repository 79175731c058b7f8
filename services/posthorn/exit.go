package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/posthornhq/posthorn/pkg/client"
)

// Exit codes, as `posthorn help exit-codes` tells them.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitDenied      = 4
	exitUnreachable = 5
)

const exitCodesText = `Exit codes:
  0  done
  1  failed, or the platform refused what it was given
  2  the command line or a file is wrong; nothing was sent
  3  there is no such thing
  4  the platform does not know the caller (no key, wrong key), or it may not do this
  5  the platform cannot be reached`

func newExitCodes() *cobra.Command {
	return &cobra.Command{Use: "exit-codes", Short: "What the exit codes mean", Long: exitCodesText}
}

// A usageError is a command that can never work as it is written.
type usageError struct {
	cmd *cobra.Command // nil if its help would not help
	err error
}

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

// errReported ends a command whose failures have been told already.
var errReported = errors.New("reported")

// reported marks an error as told, and keeps its exit code.
type reported struct{ error }

func (r reported) Unwrap() []error { return []error{errReported, r.error} }

// report tells err and returns the exit code for it.
func (a *app) report(err error) int {
	if err == nil {
		return exitOK
	}
	if !errors.Is(err, errReported) {
		fmt.Fprintln(a.stderr, "posthorn: "+a.explain(err))
	}
	return exitCode(err)
}

func exitCode(err error) int {
	if _, ok := errors.AsType[usageError](err); ok {
		return exitUsage
	}
	if errors.Is(err, client.ErrUnreachable) {
		return exitUnreachable
	}
	if e, ok := errors.AsType[*client.Error](err); ok {
		switch e.Status {
		case http.StatusNotFound:
			return exitNotFound
		case http.StatusUnauthorized, http.StatusForbidden:
			return exitDenied
		}
	}
	return exitFailed
}

// explain says what went wrong and what can be done about it.
func (a *app) explain(err error) string {
	if e, ok := errors.AsType[usageError](err); ok {
		msg := strings.TrimPrefix(e.Error(), "client: ")
		if e.cmd != nil {
			msg += "\nSee '" + e.cmd.CommandPath() + " --help'."
		}
		return msg
	}
	if errors.Is(err, context.Canceled) {
		return "interrupted"
	}
	if errors.Is(err, client.ErrUnreachable) {
		cause := err
		if e, ok := errors.AsType[*url.Error](err); ok {
			cause = e.Err
		}
		return fmt.Sprintf("cannot reach the platform: %v\nIs `posthorn serve` running? --server says %s", cause, a.server())
	}
	e, ok := errors.AsType[*client.Error](err)
	if !ok {
		return strings.TrimPrefix(err.Error(), "client: ")
	}
	msg := err.Error()
	switch e.Status {
	case http.StatusUnauthorized:
		msg += "\n" + a.keyAdvice()
	case http.StatusNotFound:
		if e.Detail == "" {
			msg += fmt.Sprintf("\nIs it a Posthorn? --server says %s", a.server())
		}
	}
	return msg
}

func (a *app) keyAdvice() string {
	dir, _ := a.data()
	advice := "give --key, or POSTHORN_API_KEY, or run where " + dir + "/admin.key is readable"
	if a.keyFrom != "" {
		return "The key of " + a.keyFrom + " was not accepted: " + advice
	}
	return "No key was sent: " + advice
}

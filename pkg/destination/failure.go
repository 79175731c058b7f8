package destination

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"

	"github.com/posthornhq/posthorn/pkg/netguard"
)

// maxErrorText bounds an error's text, which may quote the destination.
const maxErrorText = 512

// NoAnswerTo returns the result of an attempt that ended in err. Its text is err's,
// which must be without credentials.
func NoAnswerTo(ctx context.Context, err error) Result {
	return Failed(ClassOf(ctx, err), err)
}

// Failed returns the result of an attempt without an answer, of a known class.
func Failed(class string, err error) Result {
	text := err.Error()
	if class == ClassTimeout {
		text = "no answer within the timeout"
	}
	return Result{Verdict: NoAnswer, ErrorClass: class, Err: &sendError{text: Clean(text), cause: err}}
}

// ClassOf finds the error class of what came of a connection. The order counts:
// whatever an attempt was doing when its time was up, it timed out; and most of the
// others are a *net.OpError.
func ClassOf(ctx context.Context, err error) string {
	if errors.Is(err, netguard.ErrBlocked) {
		return ClassBlocked
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return ClassTimeout
	}
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return ClassDNS
	}
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		return ClassTimeout
	}
	op, isOp := errors.AsType[*net.OpError](err)
	switch {
	case isTLS(err, op):
		return ClassTLS
	case isOp && op.Op == "dial":
		return ClassConnect
	case isClosed(err):
		return ClassClosed
	}
	return ClassOther
}

func isTLS(err error, op *net.OpError) bool {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return true
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return true
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return true
	}
	// Alerts, the peer's and our own, have no exported type but these operations.
	if op != nil && (op.Op == "remote error" || op.Op == "local error") {
		return true
	}
	// No common version, no common cipher: no type at all.
	return strings.HasPrefix(err.Error(), "tls: ")
}

func isClosed(err error) bool {
	for _, target := range []error{io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, syscall.ECONNRESET, syscall.EPIPE, syscall.ECONNABORTED} {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

// A sendError has a text for people and keeps its cause for the code.
type sendError struct {
	text  string
	cause error
}

func (e *sendError) Error() string { return e.text }
func (e *sendError) Unwrap() error { return e.cause }

// Clean makes a text short and valid UTF-8, as [Result].Err wants it.
func Clean(text string) string {
	if len(text) > maxErrorText {
		text = text[:maxErrorText] + "…"
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}

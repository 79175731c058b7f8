package wire

import (
	"context"
	"errors"
	"strconv"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/event"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// domain is that of google.rpc.ErrorInfo in our statuses.
const domain = "posthorn"

// Code returns the gRPC code of a kind.
func Code(k errs.Kind) codes.Code {
	switch k {
	case errs.Invalid:
		return codes.InvalidArgument
	case errs.Denied:
		return codes.PermissionDenied
	case errs.Unauthenticated:
		return codes.Unauthenticated
	case errs.NotFound:
		return codes.NotFound
	case errs.Conflict:
		return codes.AlreadyExists
	case errs.Stale:
		return codes.Aborted
	case errs.TooLarge:
		return codes.OutOfRange
	case errs.Throttled, errs.Full:
		return codes.ResourceExhausted
	case errs.Unavailable:
		return codes.Unavailable
	}
	return codes.Internal
}

// Status returns err as a gRPC status error: its kind as code and, in an
// ErrorInfo, exactly; its message; its violations as BadRequest. What is a
// status already passes, and so do cancellation and deadline.
func Status(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*errs.Error](err); !ok {
		if s, ok := status.FromError(err); ok {
			return s.Err()
		}
		switch {
		case errors.Is(err, context.Canceled):
			return status.Error(codes.Canceled, "the caller went away")
		case errors.Is(err, context.DeadlineExceeded):
			return status.Error(codes.DeadlineExceeded, "the time that the caller gave ran out")
		}
	}
	kind := errs.KindOf(err)
	s := status.New(Code(kind), errs.MessageOf(err))
	info := &errdetails.ErrorInfo{
		Reason: errs.ReasonOf(err), Domain: domain,
		Metadata: map[string]string{"kind": strconv.Itoa(int(kind))},
	}
	withInfo, dErr := s.WithDetails(info)
	if dErr != nil {
		return s.Err()
	}
	if vs := errs.ViolationsOf(err); len(vs) > 0 {
		br := &errdetails.BadRequest{}
		for _, v := range vs {
			br.FieldViolations = append(br.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: v.Field, Description: v.Description})
		}
		if full, dErr := withInfo.WithDetails(br); dErr == nil {
			withInfo = full
		}
	}
	return withInfo.Err()
}

// Error is the inverse of [Status]: what came from another process becomes the
// error that it was there.
func Error(err error) error {
	if err == nil {
		return nil
	}
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	kind := kindOf(s.Code())
	e := errs.Wrap(nil, kind, "%s", s.Message())
	for _, d := range s.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			if d.GetDomain() != domain {
				continue
			}
			if n, err := strconv.Atoi(d.GetMetadata()["kind"]); err == nil && n >= 0 && n < 256 {
				e.Kind = errs.Kind(n)
			}
			e.Reason = d.GetReason()
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				e.Violations = append(e.Violations, event.Violation{Field: v.GetField(), Description: v.GetDescription()})
			}
		}
	}
	return e
}

func kindOf(c codes.Code) errs.Kind {
	switch c {
	case codes.InvalidArgument, codes.FailedPrecondition:
		return errs.Invalid
	case codes.PermissionDenied:
		return errs.Denied
	case codes.Unauthenticated:
		return errs.Unauthenticated
	case codes.NotFound:
		return errs.NotFound
	case codes.AlreadyExists:
		return errs.Conflict
	case codes.Aborted:
		return errs.Stale
	case codes.OutOfRange:
		return errs.TooLarge
	case codes.ResourceExhausted:
		return errs.Throttled
	case codes.Unavailable, codes.DeadlineExceeded:
		return errs.Unavailable
	}
	return errs.Internal
}

// Refusal returns err as one answer of many.
func Refusal(err error) *posthornv1.Refusal {
	kind := errs.KindOf(err)
	r := &posthornv1.Refusal{Code: int32(Code(kind)), Message: errs.MessageOf(err), Reason: errs.ReasonOf(err), Kind: int32(kind)}
	for _, v := range errs.ViolationsOf(err) {
		r.Violations = append(r.Violations, &posthornv1.Violation{Field: v.Field, Description: v.Description})
	}
	return r
}

// RefusalError is the inverse of [Refusal].
func RefusalError(r *posthornv1.Refusal) error {
	e := errs.New(kindOf(codes.Code(r.GetCode())), "%s", r.GetMessage())
	if k := r.GetKind(); k > 0 && k < 256 {
		e.Kind = errs.Kind(k)
	}
	e.Reason = r.GetReason()
	for _, v := range r.GetViolations() {
		e.Violations = append(e.Violations, event.Violation{Field: v.GetField(), Description: v.GetDescription()})
	}
	return e
}

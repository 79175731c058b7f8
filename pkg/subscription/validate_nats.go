package subscription

import (
	"net/url"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/posthornhq/posthorn/pkg/errs"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// maxSubject is what a template may be long. What it becomes is bounded by the
// event's type.
const maxSubject = 255 // bytes

func validNats(n *posthornv1.Nats) error {
	if err := validNatsURL(n.GetUrl()); err != nil {
		return err
	}
	if err := validSubject(n.GetSubject()); err != nil {
		return err
	}
	if _, known := posthornv1.Webhook_Format_name[int32(n.GetFormat())]; !known {
		return errs.Field("destination.nats.format", "%d is not a format", n.GetFormat())
	}
	return validNatsHeaders(n.GetHeaders())
}

// validNatsURL does not show what it refuses, which may have credentials.
func validNatsURL(text string) error {
	const field = "destination.nats.url"
	if text == "" {
		return errs.Field(field, "is required")
	}
	if len(text) > maxURL {
		return errs.Field(field, "is %d bytes long, at most %d are allowed", len(text), maxURL)
	}
	for one := range strings.SplitSeq(text, ",") {
		u, err := url.Parse(strings.TrimSpace(one))
		switch {
		case err != nil:
			return errs.Field(field, "is not a URL, or several with commas between them")
		case u.Scheme != "nats" && u.Scheme != "tls":
			return errs.Field(field, "must begin with nats:// or tls://, each of several")
		case u.Hostname() == "":
			return errs.Field(field, "has no host")
		case u.User != nil:
			return errs.Field(field, "has a user name, password or token, which would be seen in logs; use the fields beside it")
		case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "":
			return errs.Field(field, "has more than a host and a port")
		}
	}
	return nil
}

// validSubject checks a template. What stands for the event's is made of tokens
// that need no check.
func validSubject(template string) error {
	const field = "destination.nats.subject"
	switch {
	case template == "":
		return errs.Field(field, `is required; "{type}" stands for the event's type`)
	case len(template) > maxSubject:
		return errs.Field(field, "is %d bytes long, at most %d are allowed", len(template), maxSubject)
	case strings.HasPrefix(template, "$") || strings.HasPrefix(template, "_"):
		return errs.Field(field, "begins with %q; such subjects belong to NATS itself", template[:1])
	}
	for token := range strings.SplitSeq(template, ".") {
		switch token {
		case "":
			return errs.Field(field, "has an empty token; tokens are separated by single dots")
		case "{type}", "{tenant}", "{context}":
			continue
		}
		if strings.ContainsAny(token, "{}") {
			return errs.Field(field, `has %q; "{type}", "{tenant}" and "{context}" are known, each a token of its own`, token)
		}
		if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '*' || r == '>' }) {
			return errs.Field(field, "has %q; blanks and wildcards are not allowed", token)
		}
	}
	return nil
}

func validNatsHeaders(headers map[string]string) error {
	const field = "destination.nats.headers"
	if n := len(headers); n > MaxHeaders {
		return errs.Field(field, "has %d, at most %d are allowed", n, MaxHeaders)
	}
	for name, value := range headers {
		switch lower := strings.ToLower(name); {
		case !httpguts.ValidHeaderFieldName(name):
			return errs.Field(field, "%q is not the name of a header", name)
		case strings.HasPrefix(lower, "nats-"), strings.HasPrefix(lower, "ce-"), strings.HasPrefix(lower, "webhook-"),
			lower == "content-type", lower == "traceparent", lower == "tracestate", lower == "x-correlation-id":
			return errs.Field(field+"."+name, "is set by the platform or by NATS and can't be chosen")
		case !httpguts.ValidHeaderFieldValue(value):
			return errs.Field(field+"."+name, "has control characters in its value")
		case len(name)+len(value) > maxHeader:
			return errs.Field(field+"."+name, "is longer than %d bytes", maxHeader)
		}
	}
	return nil
}

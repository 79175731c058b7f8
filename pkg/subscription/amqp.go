package subscription

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/posthornhq/posthorn/pkg/amqp"
	"github.com/posthornhq/posthorn/pkg/errs"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

func validAmqp(a *posthornv1.Amqp) error {
	const field = "destination.amqp"
	if _, err := amqp.Parse(field, a.GetUrl(), a.GetUsername(), ""); err != nil {
		return err
	}
	if err := amqp.ValidName(field+".exchange", a.GetExchange()); err != nil {
		return err
	}
	if err := validRoutingKey(field+".routingKey", a.GetRoutingKey()); err != nil {
		return err
	}
	return validAmqpHeaders(field+".headers", a.GetHeaders())
}

// placeholder is what stands for something of the event's, or was meant to.
var placeholder = regexp.MustCompile(`\{[^{}]*\}`)

// validRoutingKey checks a template. What becomes too long with an event is for
// the attempt to refuse.
func validRoutingKey(field, key string) error {
	if err := amqp.ValidName(field, key); err != nil {
		return err
	}
	for _, name := range placeholder.FindAllString(key, -1) {
		switch name {
		case "{type}", "{tenant}", "{subject}", "{context}":
		default:
			return errs.Field(field, "%s stands for nothing; known are {type}, {tenant}, {subject} and {context}", name)
		}
	}
	return nil
}

func validAmqpHeaders(field string, headers map[string]string) error {
	if n := len(headers); n > MaxHeaders {
		return errs.Field(field, "has %d, at most %d are allowed", n, MaxHeaders)
	}
	for name, value := range headers {
		switch {
		case name == "" || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl):
			return errs.Field(field, "%q is not the name of a header", name)
		case len(name) > amqp.MaxShort:
			return errs.Field(field, "a name is %d bytes long; AMQP allows %d", len(name), amqp.MaxShort)
		case reservedInAmqp(strings.ToLower(name)):
			return errs.Field(field+"."+name, "is set by the platform or the broker and can't be chosen")
		case !utf8.ValidString(value):
			return errs.Field(field+"."+name, "is not UTF-8")
		case len(name)+len(value) > maxHeader:
			return errs.Field(field+"."+name, "is longer than %d bytes", maxHeader)
		}
	}
	return nil
}

// reservedInAmqp reports whether the header of that lower-case name is ours, or one
// that the broker keeps its own accounts in.
func reservedInAmqp(name string) bool {
	switch name {
	case "traceparent", "tracestate", "x-correlation-id", "x-death":
		return true
	}
	for _, prefix := range []string{"cloudevents:", "cloudevents_", "posthorn-"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

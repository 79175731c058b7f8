package policy

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/posthornhq/posthorn/pkg/errs"
	"github.com/posthornhq/posthorn/pkg/interceptor"
	"github.com/posthornhq/posthorn/pkg/pattern"
	posthornv1 "github.com/posthornhq/posthorn/proto/gen/posthorn/v1"
)

// Limits of what a policy may ask for.
const (
	MaxRetries    = 10                 // S10
	MaxTimeout    = 30 * time.Second   // S10
	MaxMaxElapsed = 7 * 24 * time.Hour // C16
)

// Validate returns an error of kind [errs.Invalid] about the first field of spec
// that is wrong.
func Validate(spec *posthornv1.Policy) error {
	if err := pattern.ValidName("name", spec.GetName()); err != nil {
		return err
	}
	if err := interceptor.Validate(spec.GetSecurity()); err != nil {
		return err
	}
	d := spec.GetDelivery()
	if n := maxRetries(d); n < 0 || n > MaxRetries {
		return errs.Field("delivery.maxRetries", "is %d, must be 0 to %d", n, MaxRetries)
	}
	if err := validDuration("delivery.timeout", d.GetTimeout(), MaxTimeout); err != nil {
		return err
	}
	for i, entry := range d.GetRetryOn() {
		if entry == NoStatus && len(d.GetRetryOn()) == 1 {
			break
		}
		if err := validRetryOn(fmt.Sprintf("delivery.retryOn[%d]", i), entry); err != nil {
			return err
		}
	}
	return validBackoff(d.GetBackoff())
}

// ValidDocument refuses as Invalid what a policy in JSON says and the message that is
// made of it does not: that it lists no status to retry on, where the message would
// have the default. at is the policy's own place in a larger document, or empty.
func ValidDocument(doc []byte, at string) error {
	var written struct {
		Delivery struct {
			RetryOn *[]any `json:"retryOn"`
			Snake   *[]any `json:"retry_on"`
		}
	}
	// What cannot be read so has other faults, which show when it is read.
	readable := json.Unmarshal(doc, &written) == nil
	for _, list := range []*[]any{written.Delivery.RetryOn, written.Delivery.Snake} {
		if readable && list != nil && len(*list) == 0 {
			return errs.Field(at+"delivery.retryOn", "is empty; leave it out for the default, say [%q] to retry on no status, or set delivery.maxRetries to 0 to retry nothing", NoStatus)
		}
	}
	return nil
}

func validRetryOn(field, entry string) error {
	if entry == "4xx" || entry == "5xx" {
		return nil
	}
	if entry == NoStatus {
		return errs.Field(field, "%q stands alone", entry)
	}
	const allowed = `"4xx", "5xx" and statuses from 400 to 599 are allowed`
	switch {
	case strings.ContainsAny(entry, ", "):
		return errs.Field(field, "%q must be a single status or family, without blanks; %s", entry, allowed)
	case entry == "2xx" || len(entry) == 3 && entry[0] == '2' && isNumber(entry):
		return errs.Field(field, "%q means success, which is not retried; %s", entry, allowed)
	case len(entry) != 3 || !isNumber(entry) || entry < "400" || entry > "599":
		return errs.Field(field, "%q can't be retried; %s", entry, allowed)
	}
	return nil
}

func isNumber(s string) bool {
	_, err := strconv.ParseUint(s, 10, 16)
	return err == nil
}

func validBackoff(b *posthornv1.Backoff) error {
	if b == nil {
		return nil
	}
	if err := validBackoffFields("delivery.backoff", b); err != nil {
		return err
	}
	if s := schedule(b); s.Initial > s.Max {
		return errs.Field("delivery.backoff.initial", "is %v, longer than delivery.backoff.max, %v", s.Initial, s.Max)
	}
	return nil
}

// validBackoffFields checks each setting by itself; field is what they belong to.
func validBackoffFields(field string, b *posthornv1.Backoff) error {
	if b == nil {
		return nil
	}
	if _, known := posthornv1.Backoff_Strategy_name[int32(b.GetStrategy())]; !known {
		return errs.Field(field+".strategy", "%d is not a strategy", b.GetStrategy())
	}
	if err := validDuration(field+".initial", b.GetInitial(), MaxMaxElapsed); err != nil {
		return err
	}
	if err := validDuration(field+".max", b.GetMax(), MaxMaxElapsed); err != nil {
		return err
	}
	if err := validDuration(field+".maxElapsed", b.GetMaxElapsed(), MaxMaxElapsed); err != nil {
		return err
	}
	// Written so that NaN is refused too.
	if j := b.GetJitter(); !(j >= 0 && j <= 1) {
		return errs.Field(field+".jitter", "is %v, must be 0 to 1", j)
	}
	return nil
}

// validDuration checks a duration that, if given, must be more than 0 and at most limit.
func validDuration(field string, d *durationpb.Duration, limit time.Duration) error {
	if d == nil {
		return nil
	}
	if err := d.CheckValid(); err != nil {
		return errs.Field(field, "is not a duration")
	}
	if v := d.AsDuration(); v <= 0 || v > limit {
		return errs.Field(field, "is %v, must be more than 0s and at most %gs", v, limit.Seconds())
	}
	return nil
}

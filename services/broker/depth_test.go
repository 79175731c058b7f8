package broker_test

import (
	"strings"
	"testing"

	"github.com/posthornhq/posthorn/pkg/errs"
)

func TestDeepJSONIsRefused(t *testing.T) {
	t.Parallel()
	nested := func(n int) string { return strings.Repeat(`[{"a":`, n/2) + "1" + strings.Repeat("}]", n/2) }
	tests := []struct{ name, contentType, data, reason string }{
		{"as deep as may be", "", nested(512), ""},
		{"deeper", "", nested(514), "too-deep"},
		{"deeper, by another name", "application/Vnd.Acme+JSON; charset=utf-8", nested(514), "too-deep"},
		{"long", "", "[" + strings.Repeat(`[{}],`, 2000) + "1]", ""},
		{"brackets in texts", "", `["\"` + strings.Repeat("[{", 2000) + `\\",1]`, ""},
		{"a text that ends before", "", `["\\",` + nested(512) + "]", "too-deep"},
		{"no JSON", "text/plain", nested(514), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			both(t, func(t *testing.T, open func(*rig) acceptor) {
				ev := good()
				ev.Type, ev.DataContentType, ev.Data = "free", tt.contentType, []byte(tt.data)
				_, err := open(newRig(t)).Accept(t.Context(), ev, "")
				if tt.reason == "" {
					if err != nil {
						t.Errorf("refused: %v", err)
					}
					return
				}
				if errs.ReasonOf(err) != tt.reason || errs.KindOf(err) != errs.Invalid || errs.ViolationsOf(err)[0].Field != "data" {
					t.Errorf("error %v (%v, %q), want it %s, of field data", err, errs.KindOf(err), errs.ReasonOf(err), tt.reason)
				}
			})
		})
	}
}

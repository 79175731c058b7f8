package source

import "strings"

// auth0Other is the category of codes that belong to no other, and of those
// that Auth0 has added since.
const auth0Other = "other"

// auth0Categories are the log event type codes of Auth0, by what they are about.
var auth0Categories = []struct{ name, codes string }{
	{"login_fail", "f fc fco fcoa fens fp fu"},
	{"login", "s scoa sens"},
	{"logout_fail", "flo"},
	{"logout", "slo"},
	{"signup_fail", "fs"},
	{"signup", "ss"},
	{"silent_auth", "fsa ssa"},
	{"token_exchange_fail", "feacft feccft fede feoobft feotpft fepft fepotpft fercft ferrt fertft"},
	{"token_exchange", "seacft seccft sede seoobft seotpft sepft sercft sertft"},
	{"management", "sapi mgmt_api_read"},
	{"user_fail", "fce fcp fcpn fcpr fcu fd fdu fn fv fvr"},
	{"user", "sce scp scpn scpr scu sdu srrt sui sv svr"},
	{"notifications", "w cs gd_enrollment_complete gd_start_enroll gd_unenroll ublkdu api_limit limit_mu limit_wc"},
	{auth0Other, "cls pwd_leak signup_pwd_leak limit_sul mfar pla"},
}

// auth0Codes returns the codes of a category, nil if there is no such.
func auth0Codes(category string) []string {
	for _, c := range auth0Categories {
		if c.name == category {
			return strings.Fields(c.codes)
		}
	}
	return nil
}

func auth0CategoryNames() string {
	names := make([]string, len(auth0Categories))
	for i, c := range auth0Categories {
		names[i] = c.name
	}
	return strings.Join(names, ", ")
}

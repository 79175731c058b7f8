package source

import (
	"bytes"
	"strings"

	"github.com/posthornhq/posthorn/pkg/signature"
)

// Headers of GitLab's webhooks.
const (
	headerGitLabPlain    = "X-Gitlab-Token"
	headerGitLabEvent    = "X-Gitlab-Event"
	headerGitLabUUID     = "X-Gitlab-Event-UUID"
	headerGitLabInstance = "X-Gitlab-Instance"
)

// gitlabSigning stands before a signing token; secrets without it are secret
// tokens, which GitLab sends as they are.
const gitlabSigning = "whsec_"

// gitlab takes GitLab's webhooks. An event's type is the name in the header as
// GitLab has it in bodies: "push" of a "Push Hook", "merge_request".
type gitlab struct {
	keys        []signature.StandardKey
	keyDetails  []string // for the receipt, one a key
	tokens      [][]byte
	tokenDetail []string
}

func newGitLab(secrets [][]byte) (gitlab, error) {
	details := verifyDetails("gitlab", len(secrets))
	var g gitlab
	for i, s := range secrets {
		if !bytes.HasPrefix(s, []byte(gitlabSigning)) {
			g.tokens, g.tokenDetail = append(g.tokens, s), append(g.tokenDetail, details[i])
			continue
		}
		key, err := standardKeys(secrets[i : i+1])
		if err != nil {
			return gitlab{}, err
		}
		g.keys, g.keyDetails = append(g.keys, key...), append(g.keyDetails, details[i])
	}
	return g, nil
}

// verify asks for a signature of a webhook that has one, as long as the source
// has a signing token, and for the secret token otherwise. During a move from
// the one to the other a source has both.
func (g gitlab) verify(r *Request) (string, error) {
	if len(g.keys) > 0 && (len(g.tokens) == 0 || r.Header.Get(signature.HeaderSignature) != "") {
		i, err := matchStandard(g.keys, r)
		if err != nil {
			return "", err
		}
		return g.keyDetails[i] + ", signing token", nil
	}
	token := r.Header.Get(headerGitLabPlain)
	if token == "" {
		return "", unverified("the request has no %s header; set the webhook's secret token at GitLab", headerGitLabPlain)
	}
	i := signature.MatchToken(g.tokens, token)
	if i < 0 {
		return "", unverified("%s is not one of the secrets of this source", headerGitLabPlain)
	}
	return g.tokenDetail[i] + ", secret token", nil
}

func (g gitlab) parse(r *Request) (Batch, error) {
	name, err := headerText(r.Header, headerGitLabEvent)
	if err != nil {
		return Batch{}, err
	}
	if name == "" {
		return Batch{}, malformedField(headerGitLabEvent, "the header is missing")
	}
	ev, err := plainEvent(r)
	if err != nil {
		return Batch{}, err
	}
	if ev.Type, err = checkType(headerGitLabEvent, word(strings.ToLower(strings.TrimSuffix(name, " Hook")))); err != nil {
		return Batch{}, err
	}
	// The first is the same in all attempts at one delivery; older versions send
	// the second alone.
	for _, header := range []string{headerKey, headerGitLabUUID, signature.HeaderID} {
		if ev.ExternalID != "" {
			break
		}
		if ev.ExternalID, err = headerText(r.Header, header); err != nil {
			return Batch{}, err
		}
	}
	if ev.ExternalSource, err = headerText(r.Header, headerGitLabInstance); err != nil {
		return Batch{}, err
	}
	return Batch{Events: []Incoming{{Event: ev, Key: ev.ExternalID}}}, nil
}

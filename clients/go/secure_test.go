package sentinel_test

import (
	"crypto/tls"
	"testing"

	"google.golang.org/grpc/codes"

	sentinel "sentinel.internal/go"
)

func trusting(t *testing.T) *tls.Config {
	t.Helper()
	config, err := sentinel.TLSFromFile(variable(t, "CA"))
	if err != nil {
		t.Fatal(err)
	}
	return config
}

func TestTLSAndKey(t *testing.T) {
	address, key := variable(t, "SECURE_ADDRESS"), variable(t, "API_KEY")
	client := connect(t, address, sentinel.Options{TLS: trusting(t), APIKey: key})
	name := collection(t, client, "secure")
	if done := stored(t, client, name, numbered(3)); len(done) != 3 {
		t.Error(done)
	}
	if found, err := ids(t.Context(), client, request(name, sentinel.Text("a"))); len(found) != 3 {
		t.Error(found, err)
	}
	// Each of several addresses has a name of its own.
	both := connect(t, address+","+address, sentinel.Options{TLS: trusting(t), APIKey: key})
	if found, err := ids(t.Context(), both, request(name, sentinel.Text("a"))); len(found) != 3 {
		t.Error(found, err)
	}
}

func TestWithoutAKey(t *testing.T) {
	client := connect(t, variable(t, "SECURE_ADDRESS"), sentinel.Options{TLS: trusting(t)})
	_, err := ids(t.Context(), client, request("any", sentinel.Text("a")))
	if refused := failed(t, err); refused.Code != codes.Unauthenticated ||
		refused.Reason != "CREDENTIALS_MISSING" {
		t.Errorf("%+v", refused)
	}
}

func TestWithoutTheCA(t *testing.T) {
	client := connect(t, variable(t, "SECURE_ADDRESS"), sentinel.Options{TLS: &tls.Config{}})
	_, err := ids(t.Context(), client, request("any", sentinel.Text("a")))
	if refused := failed(t, err); refused.Reason != sentinel.ReasonUnreachable {
		t.Errorf("%+v", refused)
	}
}

func TestAKeyDoesNotLeaveTheMachineWithoutTLS(t *testing.T) {
	if _, err := sentinel.New("gateway.example:50050", sentinel.Options{APIKey: "k"}); err == nil {
		t.Error("not refused")
	}
	for _, here := range []string{"localhost:1", "127.0.0.1:1,[::1]:2"} {
		if _, err := sentinel.New(here, sentinel.Options{APIKey: "k"}); err != nil {
			t.Error(err)
		}
	}
}

func TestAnAddressIsHostAndPort(t *testing.T) {
	for _, wrong := range []string{"", "http://gateway", "gateway", "a:1,,b:2"} {
		if _, err := sentinel.New(wrong, sentinel.Options{}); err == nil {
			t.Errorf("%q is not refused", wrong)
		}
	}
}

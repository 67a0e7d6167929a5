// The keys of one control plane: a CA, the API server's certificate, the service-account key.
// Written by the binary itself so that starting a control plane needs no openssl.
package main

import (
	"encoding/pem"
	"errors"
	"net"
	"os"
	"path/filepath"

	"k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
)

// runPKI writes ca.crt, server.crt, server.key and sa.key into the directory named by the argument.
func runPKI() int {
	if len(os.Args) != 2 {
		return failed(errors.New("usage: kubelab pki DIRECTORY"))
	}
	chain, serverKey, err := cert.GenerateSelfSignedCertKey(
		"127.0.0.1",
		[]net.IP{net.IPv4(10, 96, 0, 1)}, // the first address of the service range
		[]string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"},
	)
	if err != nil {
		return failed(err)
	}
	_, authority := pem.Decode(chain) // the serving certificate comes first, its CA second
	accountKey, err := keyutil.MakeEllipticPrivateKeyPEM()
	if err != nil {
		return failed(err)
	}
	for name, content := range map[string][]byte{
		"ca.crt": authority, "server.crt": chain, "server.key": serverKey, "sa.key": accountKey,
	} {
		if err := os.WriteFile(filepath.Join(os.Args[1], name), content, 0o600); err != nil {
			return failed(err)
		}
	}
	return 0
}

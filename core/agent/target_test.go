package agent

import (
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mooring-io/mooring/core/admin"
)

const testIQN = "iqn.2026-11.io.mooring:test"

func TestTargetsOverTheAPI(t *testing.T) {
	n := startNode(t, t.TempDir(), "host \"db\" {\n  iqn = \"iqn.2026-11.com.example:db\"\n}\n")
	target := "/v1/targets/" + url.PathEscape(testIQN)
	n.do("POST", "/v1/volumes", admin.VolumeCreate{Name: "a", Size: 1 << 30}, nil)
	n.do("POST", "/v1/targets", admin.TargetCreate{IQN: testNQN}, nil, admin.KindInvalid, "iSCSI name")
	n.do("POST", "/v1/targets", admin.TargetCreate{IQN: testIQN}, nil)
	n.do("POST", target+"/luns", admin.LUNAttach{Volume: "none"}, nil, admin.KindNotFound)
	var lun admin.LUN
	n.do("POST", target+"/luns", admin.LUNAttach{Volume: "a"}, &lun)
	if lun.LUN != 0 || lun.Volume != "a" || lun.Size != 1<<30 {
		t.Errorf("attached as %+v", lun)
	}
	// The same volume over NVMe.
	n.do("POST", "/v1/subsystems", admin.SubsystemCreate{NQN: testNQN}, nil)
	n.do("POST", "/v1/subsystems/"+url.PathEscape(testNQN)+"/namespaces", admin.NamespaceAttach{Volume: "a"}, nil)
	n.do("DELETE", "/v1/volumes/a", nil, nil, admin.KindInUse, "namespace 1", "LUN 0")
	n.do("GET", "/v1/subsystems/"+url.PathEscape(testIQN), nil, nil, admin.KindNotFound, "is a target")

	n.do("POST", "/v1/hosts/allow", admin.HostRule{Subsystem: testIQN, Host: "db"}, nil)
	n.do("POST", "/v1/hosts/allow", admin.HostRule{Subsystem: testNQN, Host: "db"}, nil, admin.KindInvalid, "NQN")
	n.do("POST", "/v1/hosts/allow", admin.HostRule{Subsystem: testIQN, Host: testNQN}, nil, admin.KindInvalid)

	const secret, mutual = "hush, it is a secret", "hush, another secret"
	n.do("PUT", target+"/chap", admin.TargetCHAP{Secret: "hush-short"}, nil, admin.KindInvalid, "12 to 255")
	n.do("PUT", target+"/chap", admin.TargetCHAP{User: "me", Secret: secret, MutualSecret: mutual}, nil)
	var all []admin.Target
	n.do("GET", "/v1/targets", nil, &all)
	if len(all) != 1 || all[0].CHAP == nil || all[0].CHAP.User != "me" || !all[0].CHAP.Mutual || len(all[0].LUNs) != 1 || strings.Join(all[0].Hosts, "") != "iqn.2026-11.com.example:db" {
		t.Errorf("%+v", all)
	}
	for _, path := range []string{"/v1/targets", target, "/v1/status", "/v1/events", "/v1/subsystems", "/v1/volumes"} {
		var raw json.RawMessage
		n.do("GET", path, nil, &raw)
		if strings.Contains(string(raw), "hush") {
			t.Errorf("%s tells a secret: %s", path, raw)
		}
	}
	n.do("PUT", target+"/chap", admin.TargetCHAP{}, nil)
	n.do("DELETE", target, nil, nil, admin.KindInUse, "LUN 0")
	n.do("DELETE", target+"/luns/7", nil, nil, admin.KindNotFound)
	n.do("DELETE", target+"/luns/0", nil, nil)
	n.do("DELETE", target, nil, nil)
	n.do("DELETE", target, nil, nil, admin.KindNotFound)
}

// Targets come from the file, change with it, and are the file's.
func TestTargetsOfTheFile(t *testing.T) {
	dir := t.TempDir()
	objects := func(hosts, chap string) string {
		return "volume \"v\" {\n  size = \"1GiB\"\n}\ntarget \"" + testIQN + "\" {\n  hosts = [" + hosts + "]\n" + chap + "  lun \"3\" {\n    volume = \"v\"\n  }\n}\n"
	}
	n := startNode(t, dir, objects("", ""))
	target := "/v1/targets/" + url.PathEscape(testIQN)
	var x admin.Target
	n.do("GET", target, nil, &x)
	if len(x.LUNs) != 1 || x.LUNs[0].LUN != 3 || x.CHAP != nil || !strings.Contains(x.Managed, "node.hcl:") {
		t.Errorf("%+v", x)
	}
	n.do("PUT", target+"/chap", admin.TargetCHAP{Secret: "a secret of 16 bytes"}, nil, admin.KindManaged, "node.hcl")
	file := filepath.Join(dir, "node.hcl")
	src, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	next := strings.Replace(string(src), objects("", ""), objects("\"iqn.2026-11.com.example:db\"", "  chap {\n    secret = \"a secret of 16 bytes\"\n  }\n"), 1)
	if err := os.WriteFile(file, []byte(next), 0o600); err != nil {
		t.Fatal(err)
	}
	var r admin.ReloadReport
	n.do("POST", "/v1/reload", nil, &r)
	n.do("GET", target, nil, &x)
	if len(r.NotApplied) > 0 || len(x.Hosts) != 1 || x.CHAP == nil || x.CHAP.Mutual {
		t.Errorf("%+v after %+v", x, r)
	}
}

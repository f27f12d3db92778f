-- state.db as the first release (schema 1) left it. Never changed: it is what the migrations must be able to read.
BEGIN TRANSACTION;
CREATE TABLE attempt (
	run VARCHAR NOT NULL,
	generation INTEGER NOT NULL,
	instance VARCHAR NOT NULL,
	container_id VARCHAR NOT NULL,
	assigned_at VARCHAR NOT NULL,
	started_at VARCHAR NOT NULL,
	ended_at VARCHAR NOT NULL,
	outcome VARCHAR NOT NULL,
	reason VARCHAR NOT NULL,
	PRIMARY KEY (run, generation)
);
INSERT INTO "attempt" VALUES('r1',1,'writer-0','c0ffee','2026-11-20T10:00:02+00:00','','2026-11-20T10:00:04+00:00','succeeded','');
INSERT INTO "attempt" VALUES('r2',1,'writer-0','','','','x','lost','');
INSERT INTO "attempt" VALUES('r2',2,'writer-0','c0ffee','','','','','');
CREATE TABLE audit (
	seq INTEGER NOT NULL,
	time VARCHAR NOT NULL,
	boottime FLOAT NOT NULL,
	fleet VARCHAR NOT NULL,
	revision VARCHAR NOT NULL,
	actor VARCHAR NOT NULL,
	cause VARCHAR NOT NULL,
	kind VARCHAR NOT NULL,
	name VARCHAR NOT NULL,
	action VARCHAR NOT NULL,
	"before" VARCHAR NOT NULL,
	"after" VARCHAR NOT NULL,
	outcome VARCHAR NOT NULL,
	reason VARCHAR NOT NULL,
	plan_digest VARCHAR NOT NULL,
	policy_revision VARCHAR NOT NULL,
	prev VARCHAR NOT NULL,
	hash VARCHAR NOT NULL,
	PRIMARY KEY (seq)
);
INSERT INTO "audit" VALUES(1,'2026-11-20T10:00:00+00:00',1.5,'0badf00d','4f1d2c3b4a5968778695a4b3c2d1e0f112233445','Ada','commit','agent','writer-0','create','','','intent','','pp','','0000000000000000000000000000000000000000000000000000000000000000','d562045f942815e69b219e2af9a41a616016d7dbba4e0105ef11f730214d48a6');
INSERT INTO "audit" VALUES(2,'2026-11-20T10:00:01+00:00',2.5,'0badf00d','4f1d2c3b4a5968778695a4b3c2d1e0f112233445','Ada','commit','agent','writer-0','create','','1:aa','applied','','pp','','d562045f942815e69b219e2af9a41a616016d7dbba4e0105ef11f730214d48a6','a6b460f5b9eb73e7519b7dc782f2e26520118168d4bca703bef0aa71cce2ee3e');
INSERT INTO "audit" VALUES(3,'2026-11-20T10:00:02+00:00',3.5,'0badf00d','','uid:1000','inbox','task','t-r3','accept','','','noted','naïve text','','','a6b460f5b9eb73e7519b7dc782f2e26520118168d4bca703bef0aa71cce2ee3e','bfd20efec66d3fd08cc6794273636f55de23b45f42f7f088d39b08bf54c84888');
CREATE TABLE blob (
	id VARCHAR NOT NULL,
	content BLOB NOT NULL,
	PRIMARY KEY (id)
);
INSERT INTO "blob" VALUES('b10b',X'6B696E643A204875620AFF');
CREATE TABLE condition (
	subject VARCHAR NOT NULL,
	type VARCHAR NOT NULL,
	status BOOLEAN NOT NULL,
	reason VARCHAR NOT NULL,
	message VARCHAR NOT NULL,
	since VARCHAR NOT NULL,
	PRIMARY KEY (subject, type)
);
INSERT INTO "condition" VALUES('hub','PolicyFallback',1,'OpaAway','opa does not answer','2026-11-20T10:00:00+00:00');
CREATE TABLE dropped (
	target VARCHAR NOT NULL,
	name VARCHAR NOT NULL,
	digest VARCHAR NOT NULL,
	signature VARCHAR NOT NULL,
	uid INTEGER NOT NULL,
	run VARCHAR NOT NULL,
	claimed BOOLEAN NOT NULL,
	answered BOOLEAN NOT NULL,
	PRIMARY KEY (target)
);
INSERT INTO "dropped" VALUES('accepted/a.yaml','a.yaml','dd','1:2:3',1000,'r3',1,0);
CREATE TABLE instance (
	name VARCHAR NOT NULL,
	agent VARCHAR NOT NULL,
	ordinal INTEGER NOT NULL,
	phase VARCHAR NOT NULL,
	spec_digest VARCHAR NOT NULL,
	manifest VARCHAR NOT NULL,
	revision VARCHAR NOT NULL,
	image_id VARCHAR NOT NULL,
	container_id VARCHAR NOT NULL,
	fields VARCHAR NOT NULL,
	uid INTEGER NOT NULL,
	token_sha256 VARCHAR NOT NULL,
	token_expires_at FLOAT NOT NULL,
	created_at VARCHAR NOT NULL,
	updated_at VARCHAR NOT NULL,
	crashes INTEGER NOT NULL,
	reason VARCHAR NOT NULL,
	PRIMARY KEY (name)
);
INSERT INTO "instance" VALUES('writer-0','writer',0,'executing','1:aa','{"apiVersion": "reconciler/v1", "kind": "Agent", "metadata": {"name": "writer"}, "spec": {"image": "agents/base:1", "executor": {"type": "command", "argv": ["python3", "-c", "print(''it''''s done'')"]}}}','4f1d2c3b4a5968778695a4b3c2d1e0f112233445','sha256:00','c0ffee','{"image": "agents/base:1"}',1000,'abababababababababababababababababababababababababababababababab',1800000000.5,'2026-11-20T10:00:00+00:00','2026-11-20T10:00:01+00:00',0,'');
INSERT INTO "instance" VALUES('writer-1','writer',1,'terminating','1:aa','{"apiVersion": "reconciler/v1", "kind": "Agent", "metadata": {"name": "writer"}, "spec": {"image": "agents/base:1", "executor": {"type": "command", "argv": ["python3", "-c", "print(''it''''s done'')"]}}}','4f1d2c3b4a5968778695a4b3c2d1e0f112233445','','','{}',1000,'',0.0,'','',2,'scaled to 1
by commit');
CREATE TABLE meta (
	"key" VARCHAR NOT NULL,
	value VARCHAR NOT NULL,
	PRIMARY KEY ("key")
);
INSERT INTO "meta" VALUES('schema_version','1');
INSERT INTO "meta" VALUES('fleet','0badf00d');
INSERT INTO "meta" VALUES('source','/srv/example');
INSERT INTO "meta" VALUES('branch','main');
INSERT INTO "meta" VALUES('runtime','process');
INSERT INTO "meta" VALUES('applied_revision','4f1d2c3b4a5968778695a4b3c2d1e0f112233445');
INSERT INTO "meta" VALUES('inbox_cursor','17');
CREATE TABLE result (
	run VARCHAR NOT NULL,
	exit_code INTEGER,
	result VARCHAR NOT NULL,
	error VARCHAR NOT NULL,
	stderr_tail VARCHAR NOT NULL,
	artefacts VARCHAR NOT NULL,
	duration_s FLOAT NOT NULL,
	PRIMARY KEY (run)
);
INSERT INTO "result" VALUES('r1',0,'{"ok": true}','','','[{"path": "report.md", "digest": "ee"}]',1.25);
INSERT INTO "result" VALUES('r4',NULL,'null','no such file','','[]',0.0);
CREATE TABLE revision (
	id VARCHAR NOT NULL,
	author VARCHAR NOT NULL,
	subject VARCHAR NOT NULL,
	committed_at VARCHAR NOT NULL,
	audited BOOLEAN NOT NULL,
	seen_at VARCHAR NOT NULL,
	applied_at VARCHAR NOT NULL,
	problems VARCHAR NOT NULL,
	tree VARCHAR NOT NULL,
	PRIMARY KEY (id)
);
INSERT INTO "revision" VALUES('4f1d2c3b4a5968778695a4b3c2d1e0f112233445','Ada','More writers','2026-11-20T09:59:00+00:00',1,'2026-11-20T10:00:00+00:00','2026-11-20T10:00:02+00:00','[]','{"hub.yaml": ["b10b", 10, "100644"]}');
INSERT INTO "revision" VALUES('worktree:ff','','','',0,'','','["agents.d/a.yaml:1:1: odd"]','');
CREATE TABLE task (
	run VARCHAR NOT NULL,
	name VARCHAR NOT NULL,
	spec_digest VARCHAR NOT NULL,
	manifest VARCHAR NOT NULL,
	source VARCHAR NOT NULL,
	uid INTEGER NOT NULL,
	revision VARCHAR NOT NULL,
	state VARCHAR NOT NULL,
	reason VARCHAR NOT NULL,
	priority INTEGER NOT NULL,
	agent VARCHAR NOT NULL,
	instance VARCHAR NOT NULL,
	generation INTEGER NOT NULL,
	attempts INTEGER NOT NULL,
	sent_epoch VARCHAR NOT NULL,
	boot_id VARCHAR NOT NULL,
	assigned_boot FLOAT NOT NULL,
	not_before_boot FLOAT NOT NULL,
	created_at VARCHAR NOT NULL,
	started_at VARCHAR NOT NULL,
	finished_at VARCHAR NOT NULL,
	policy_revision VARCHAR NOT NULL,
	progress VARCHAR NOT NULL,
	PRIMARY KEY (run)
);
INSERT INTO "task" VALUES('r1','t-r1','1:bb','{"apiVersion": "reconciler/v1", "kind": "Task", "metadata": {"name": "t"}, "spec": {"agent": "writer", "prompt": "Gr\u00f6\u00dfe; ''quoted''"}}','git',0,'4f1d2c3b4a5968778695a4b3c2d1e0f112233445','succeeded','',0,'writer','writer-0',1,1,'','',0.0,0.0,'2026-11-20T10:00:01+00:00','2026-11-20T10:00:03+00:00','2026-11-20T10:00:04+00:00','cd','');
INSERT INTO "task" VALUES('r2','t-r2','1:bb','{"apiVersion": "reconciler/v1", "kind": "Task", "metadata": {"name": "t"}, "spec": {"agent": "writer", "prompt": "Gr\u00f6\u00dfe; ''quoted''"}}','git',0,'4f1d2c3b4a5968778695a4b3c2d1e0f112233445','running','',0,'writer','writer-0',2,2,'e1','b1',12.5,0.0,'2026-11-20T10:00:02+00:00','','','','half');
INSERT INTO "task" VALUES('r3','t-r3','1:bb','{"apiVersion": "reconciler/v1", "kind": "Task", "metadata": {"name": "t"}, "spec": {"agent": "writer", "prompt": "Gr\u00f6\u00dfe; ''quoted''"}}','inbox',1000,'4f1d2c3b4a5968778695a4b3c2d1e0f112233445','pending','',5,'','',0,0,'','',0.0,99.25,'2026-11-20T10:00:03+00:00','','','','');
INSERT INTO "task" VALUES('r4','t-r4','1:bb','{"apiVersion": "reconciler/v1", "kind": "Task", "metadata": {"name": "t"}, "spec": {"agent": "writer", "prompt": "Gr\u00f6\u00dfe; ''quoted''"}}','git',0,'4f1d2c3b4a5968778695a4b3c2d1e0f112233445','failed','exit status 3',0,'','',0,0,'','',0.0,0.0,'2026-11-20T10:00:04+00:00','','','','');
CREATE TABLE unit (
	unit VARCHAR NOT NULL,
	input_digest VARCHAR NOT NULL,
	failures INTEGER NOT NULL,
	same_failures INTEGER NOT NULL,
	not_before_boot FLOAT NOT NULL,
	boot_id VARCHAR NOT NULL,
	reason VARCHAR NOT NULL,
	stalled BOOLEAN NOT NULL,
	PRIMARY KEY (unit)
);
INSERT INTO "unit" VALUES('agent/writer-1','ii',3,2,7.5,'b1','no image',1);
CREATE INDEX ix_instance_agent ON instance (agent);
CREATE INDEX ix_task_state ON task (state);
CREATE INDEX ix_task_name ON task (name);
CREATE INDEX ix_dropped_run ON dropped (run);
CREATE INDEX ix_dropped_answered ON dropped (answered);
COMMIT;

"""An exporter as OpenStack's, for a real Prometheus to scrape: two running totals of one project, set by the test."""

from __future__ import annotations

from tests.doubles import serving

PROJECT = "os_credits_1"

PAGE = """\
# HELP project_vcpu_usage Total vCPU hours
# TYPE project_vcpu_usage gauge
project_vcpu_usage{{domain_id="default",domain_name="elixir",project_id="123",project_name="{project}"}} {vcpu_hours}
# HELP project_mb_usage Total MiB hours
# TYPE project_mb_usage gauge
project_mb_usage{{domain_id="default",domain_name="elixir",project_id="123",project_name="{project}"}} {mib_hours}
# HELP usage_exporter_seconds How long it took to look
# TYPE usage_exporter_seconds histogram
usage_exporter_seconds_bucket{{le="+Inf"}} 3
usage_exporter_seconds_sum 0.5
usage_exporter_seconds_count 3
"""


class UsageExporter(serving.Threaded):
    """Answers ``GET /metrics`` on a free port of the loopback interface until it is closed."""

    def __init__(self, vcpu_hours: str, mib_hours: str) -> None:
        self.vcpu_hours = vcpu_hours
        self.mib_hours = mib_hours
        exporter = self

        class Handler(serving.Handler):
            def do_GET(self) -> None:
                body = exporter.page().encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        super().__init__(Handler)

    def page(self) -> str:
        return PAGE.format(project=PROJECT, vcpu_hours=self.vcpu_hours, mib_hours=self.mib_hours)

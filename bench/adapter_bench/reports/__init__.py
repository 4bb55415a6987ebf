"""Reports over many results: page, tables, pictures, comparison. What one run found is `adapter_bench.report`."""

"""Models of problem reports and of the errors that they list."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from imgsvc.web.schema.response_model import ResponseModel


class SuggestionItem(ResponseModel):
    """An option of the upload that may avoid an error."""

    option: Annotated[str, Field(description="Name of the option: `imageColumn` or `encoding`.")]
    value: str
    example: Annotated[str, Field(description="Text of the file that it would read, shortened.")]


class ErrorItem(ResponseModel):
    """One error in an uploaded file or in the options."""

    row: Annotated[
        int | None,
        Field(
            description="Row number in the file; the header is 1. Null if the error is not in a row."
        ),
    ]
    column: Annotated[
        str | None, Field(description="Header of the column. Null if the error is not in a column.")
    ]
    code: Annotated[str, Field(description="Error code. Stable, for programs.")]
    message: Annotated[str, Field(description="What is wrong and how to fix it, for people.")]
    value: Annotated[str | None, Field(description="The invalid value, shortened.")]
    cells: Annotated[
        list[str] | None,
        Field(
            description="The row's cells in the columns of `columns`, then its surplus cells, all "
            "shortened. Null if the row cannot be divided into cells, and for errors outside the rows. "
            "Absent for options and skipped rows."
        ),
    ] = None
    option: Annotated[
        str | None, Field(description="Name of the invalid option. Absent for errors of a file.")
    ] = None
    suggestions: Annotated[
        list[SuggestionItem] | None,
        Field(
            description="For `missing_column`, the columns that seem to have image URLs; for "
            "`bad_encoding`, the likely encodings. Absent if there are none."
        ),
    ] = None


class ProblemReport(ResponseModel):
    """Why an API call failed (RFC 9457)."""

    type: Annotated[str, Field(description="`urn:imgsvc:problem:CODE`. Stable, for programs.")]
    title: Annotated[str, Field(description="Short summary of the problem type.")]
    status: Annotated[int, Field(description="HTTP status code.")]
    detail: Annotated[str, Field(description="What went wrong and what to do, for people.")]
    help: Annotated[
        str,
        Field(
            description="Path of the page that explains this problem type.",
            json_schema_extra={"format": "uri-reference"},
        ),
    ]
    errors: Annotated[
        list[ErrorItem] | None,
        Field(description="List of errors in the file or the options, at most 100."),
    ] = None
    error_count: Annotated[
        int | None, Field(description="Total number of errors, including those not listed.")
    ] = None
    columns: Annotated[
        list[str] | None,
        Field(
            description="Names of the file's columns that `cells` are from: at most 50 of those with a "
            "name, always with the ones that the service reads. If the header is invalid, the names "
            "in it. Absent without a header."
        ),
    ] = None
